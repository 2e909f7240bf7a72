"""The report of a fleet and a period as JSON: the twin of the page."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from api.views import View
from tensorguard.services.compliance.listing import ListedEntry, RevocationReceipt, Section
from tensorguard.services.compliance.period import Scope
from tensorguard.services.compliance.report import Report, Summary
from tensorguard.services.compliance.sections import Part, SectionName


class TypeCountView(View):
    """Entries of one type; `times` is what they stand for, where floods are counted.

    `part`: of the fleet, of the whole platform, or of an agent that left the fleet. `unsigned` ones
    are in no other figure: no checkpoint covers them yet.
    """

    type: str
    outcome: str
    part: Part
    entries: int
    times: int
    unsigned: int


class NumbersView(View):
    """The main numbers, from the entries that a checkpoint covers."""

    entries: int
    unsigned: int
    enrolled: int
    enrollments_refused: int
    moved_in: int
    moved_away: int
    certificates_renewed: int
    revoked: int
    revocations_confirmed: int
    revocations_partial: int
    packages: int
    packages_refused: int
    releases: int
    deployments_started: int
    deployments_ended: int
    grants_issued: int
    grants_denied: int
    kek_rotations: int
    decryptions: int
    decryption_failures: int
    violations: int
    changes: int
    sign_ins: int
    sign_ins_failed: int


class RevocationTimesView(View):
    """From order to complete receipt: the slowest front counts.

    Of the receipts that came in the period, the newest 5,000 at most: `left_out` are older.
    """

    measured: int
    left_out: int
    median_ms: int | None
    p99_ms: int | None
    longest_ms: int | None


class CheckpointView(View):
    """A signed note and the keys that verify it, of one epoch of the ledger."""

    epoch: int
    tree_size: int
    root_hash: str
    signed_at: datetime
    note: str
    keys: list[str]


class SummaryView(View):
    """The numbers of a period: `since` is in it, `until` is not."""

    fleet: str | None
    since: datetime
    until: datetime
    numbers: NumbersView
    revocation_times: RevocationTimesView
    types: list[TypeCountView]


class ReportedReceiptView(View):
    """When the broker fronts had shut an agent or a fleet out: the slowest after `took_ms`."""

    epoch: int
    leaf_index: int
    state: Literal["complete", "partial"]
    fronts_ms: dict[str, int]
    took_ms: int | None
    disconnected: int


class ListedEntryView(View):
    """An entry in its place; `details` is null where it is too long to list.

    The names are no part of the ledger: what this reader may see of what things are called now.
    """

    epoch: int
    leaf_index: int
    leaf_hash: str
    time: datetime
    type: str
    actor_kind: str
    actor_id: str
    actor_name: str | None
    subject_kind: str
    subject_id: str
    subject_name: str | None
    fleet: str | None
    outcome: str
    details: dict[str, Any] | None
    receipt: ReportedReceiptView | None


class SectionView(View):
    """What a section counts and lists, the newest first: `left_out` entries are not listed."""

    section: SectionName
    entries: int
    left_out: int
    types: list[TypeCountView]
    listed: list[ListedEntryView]


class ActorCountView(View):
    """Who made changes, and how many."""

    kind: str
    id: str
    name: str | None
    entries: int


class PackageUseView(View):
    """How many active agents run a package, by what they say; a null digest: none."""

    digest: str | None
    name: str | None
    version: str | None
    releases: list[str]
    agents: int


class PeriodDeploymentView(View):
    """A deployment that was there in the period, as it is now; `agents` by their state."""

    id: UUID
    release: str
    package_digest: str
    fleets: list[str]
    state: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    agents: dict[str, int]


class EvidenceView(View):
    """The listed entries of one epoch with their proofs: zstd NDJSON for `ledger verify`."""

    epoch: int
    name: str
    entries: int
    content: str


class ReportView(SummaryView):
    """A report with everything that is needed to check it, in `evidence`."""

    made_at: datetime
    checkpoints: list[CheckpointView]
    sections: list[SectionView]
    actors: list[ActorCountView]
    running: list[PackageUseView]
    deployments: list[PeriodDeploymentView]
    deployments_left_out: int
    evidence: list[EvidenceView]


def summary_view(summary: Summary) -> SummaryView:
    """Return the numbers as they travel."""
    return SummaryView(
        **_period(summary.scope),
        numbers=NumbersView.model_validate(summary.numbers),
        revocation_times=RevocationTimesView.model_validate(summary.revocation_times),
        types=[TypeCountView.model_validate(one) for one in summary.types],
    )


def report_view(report: Report) -> ReportView:
    """Return a report as it travels, without the evidence, which is streamed into its place."""
    return ReportView(
        **_period(report.scope),
        numbers=NumbersView.model_validate(report.numbers),
        revocation_times=RevocationTimesView.model_validate(report.revocation_times),
        types=[TypeCountView.model_validate(one) for one in report.types],
        made_at=report.made_at,
        checkpoints=[
            CheckpointView(
                epoch=epoch,
                tree_size=one.tree_size,
                root_hash=one.root_hash.hex(),
                signed_at=one.signed_at,
                note=one.note,
                keys=list(report.keys[epoch]),
            )
            for epoch, one in sorted(report.scope.checkpoints.items())
        ],
        sections=[_section(report, section) for section in report.sections],
        actors=[
            ActorCountView(
                kind=one.kind,
                id=one.id,
                name=report.names.get((one.kind, one.id)),
                entries=one.entries,
            )
            for one in report.actors
        ],
        running=[
            PackageUseView(
                digest=one.digest.hex() if one.digest is not None else None,
                name=one.name,
                version=one.version,
                releases=list(one.releases),
                agents=one.agents,
            )
            for one in report.running
        ],
        deployments=[
            PeriodDeploymentView(
                id=one.id,
                release=one.release,
                package_digest=one.package_digest.hex(),
                fleets=list(one.fleets),
                state=one.state,
                created_at=one.created_at,
                started_at=one.started_at,
                finished_at=one.finished_at,
                agents=dict(one.agents),
            )
            for one in report.deployments
        ],
        deployments_left_out=report.deployments_left_out,
        evidence=[],
    )


def _period(scope: Scope) -> dict[str, Any]:
    return {"fleet": scope.fleet, "since": scope.since, "until": scope.until}


def _section(report: Report, section: Section) -> SectionView:
    return SectionView(
        section=section.name,
        entries=section.entries,
        left_out=section.left_out,
        types=[TypeCountView.model_validate(one) for one in section.types],
        listed=[_listed(report, one) for one in section.listed],
    )


def _listed(report: Report, one: ListedEntry) -> ListedEntryView:
    receipt = report.receipts.get((one.epoch, one.leaf_index))
    return ListedEntryView(
        epoch=one.epoch,
        leaf_index=one.leaf_index,
        leaf_hash=one.leaf_hash.hex(),
        time=one.time,
        type=one.type,
        actor_kind=one.actor_kind,
        actor_id=one.actor_id,
        actor_name=report.names.get((one.actor_kind, one.actor_id)),
        subject_kind=one.subject_kind,
        subject_id=one.subject_id,
        subject_name=report.names.get((one.subject_kind, one.subject_id)),
        fleet=one.fleet,
        outcome=one.outcome,
        details=dict(one.details) if one.details is not None else None,
        receipt=None if receipt is None else _receipt(receipt),
    )


def _receipt(receipt: RevocationReceipt) -> ReportedReceiptView:
    return ReportedReceiptView(
        epoch=receipt.epoch,
        leaf_index=receipt.leaf_index,
        state="complete" if receipt.is_complete else "partial",
        fronts_ms=dict(receipt.fronts_ms),
        took_ms=receipt.took_ms,
        disconnected=receipt.disconnected,
    )
