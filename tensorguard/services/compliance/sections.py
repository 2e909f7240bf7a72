"""Sections of a compliance report: which ledger entry belongs where, and what is counted; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, get_args

import msgspec

SectionName = Literal[
    "enrollment",
    "revocations",
    "releases",
    "keys",
    "violations",
    "changes",
    "sign-ins",
    "other",
]
SECTIONS: Final[Sequence[SectionName]] = get_args(SectionName)

# Types, or their dotted beginnings; the longest that fits decides. What fits none is `other`.
_BEGINNINGS: Final[Mapping[str, SectionName]] = {
    **dict.fromkeys(
        (
            "agent.approved",
            "agent.certificate-superseded",
            "agent.enrolled",
            "agent.enrollment-failed",
            "agent.move-cancelled",
            "agent.move-ordered",
            "agent.moved",
            "agent.pending",
            "agent.recovered",
            "agent.rejected",
            "agent.released",
            "agent.renewal-denied",
            "agent.renewed",
            "manufacturer-ca",
            "recovery",
            "token",
        ),
        "enrollment",
    ),
    **dict.fromkeys(
        (
            "agent.revocation-confirmed",
            "agent.revocation-partial",
            "agent.revoked",
            "fleet.revocation-confirmed",
            "fleet.revocation-partial",
            "fleet.revoked",
        ),
        "revocations",
    ),
    **dict.fromkeys(
        (
            "agent.reported.activation",
            "agent.reported.fell-back",
            "agent.reported.model.activated",
            "deployment",
            "package",
            "release",
        ),
        "releases",
    ),
    **dict.fromkeys(
        (
            "agent.reported.decryption",
            "agent.reported.model.decrypted",
            "grant",
            "kek",
            "key",
            "ledger.key-created",
            "ledger.key-retired",
        ),
        "keys",
    ),
    **dict.fromkeys(
        (
            "agent.denied",
            "agent.flooding",
            "agent.reported.outbox",
            "agent.reported.package",
            "agent.reported.policy",
            "agent.reported.signature",
            "event",
            "events",
            "ledger.fork-seen",
            "message",
            "request",
            "service.certificate-refused",
        ),
        "violations",
    ),
    **dict.fromkeys(
        (
            "agent.reported.config",
            "agent.tags-changed",
            "api-key",
            "approval",
            "ca",
            "fleet",
            "ledger.epoch-began",
            "ledger.subject-erased",
            "platform",
            "publisher",
            "second-factor",
            "service",
            "sink",
            "trust-bundle",
            "user",
        ),
        "changes",
    ),
    **dict.fromkeys(("second-factor.failed", "session"), "sign-ins"),
}
ROUTINE: Final = frozenset(
    {
        "agent.certificate-superseded",
        "agent.renewed",
        "agent.reported.model.activated",
        "agent.reported.model.decrypted",
        "grant.issued",
        "session.signed-in",
        "session.signed-out",
        "session.stepped-up",
    }
)
"""What happens all the time: listed after the rest of its section, where there is room."""
COUNTING: Final = frozenset(
    {
        "agent.denied",
        "agent.enrollment-failed",
        "agent.flooding",
        "message.poisoned",
        "request.denied",
        "second-factor.failed",
        "session.failed",
        "sink.dead-lettered",
        "sink.dead-letters-replayed",
        "sink.gap",
    }
)
"""Floods are written as one entry with a `count`: these stand for so many times."""

Part = Literal["fleet", "platform", "left"]
"""Whose an entry is: the fleet's, the whole platform's, or of an agent that left the fleet."""


class TypeCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries there are of a type; `times` is what they stand for.

    `unsigned` of them no checkpoint covers yet: they are in no other figure.
    """

    type: str
    outcome: str
    part: Part
    entries: int
    times: int
    unsigned: int = 0


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The main numbers of a period, from the entries that a checkpoint covers."""

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


def section_of(type: str) -> SectionName:
    """Return the section that entries of a type stand in."""
    begins = type
    while begins:
        if (found := _BEGINNINGS.get(begins)) is not None:
            return found
        begins = begins.rpartition(".")[0]
    return "other"


def sum_up(counts: Iterable[TypeCount]) -> Numbers:
    """Return the main numbers. Those of a fleet leave out what is of the whole platform, but for
    packages, releases, keys, changes and sign-ins, which are the platform's by nature."""
    known = list(counts)

    def entries(*types: str, part: Part | None = None) -> int:
        return sum(
            one.entries
            for one in known
            if one.type in types and (one.part == part if part else one.part != "left")
        )

    def times(*types: str) -> int:
        return sum(one.times for one in known if one.type in types and one.part != "left")

    def of_section(section: SectionName) -> int:
        return sum(one.times for one in known if section_of(one.type) == section)

    return Numbers(
        entries=sum(one.entries for one in known),
        unsigned=sum(one.unsigned for one in known),
        enrolled=entries("agent.enrolled"),
        enrollments_refused=times("agent.enrollment-failed", "agent.rejected"),
        moved_in=entries("agent.moved"),
        moved_away=entries("agent.moved", part="left"),
        certificates_renewed=entries("agent.renewed"),
        revoked=entries("agent.revoked"),
        revocations_confirmed=entries("agent.revocation-confirmed", "fleet.revocation-confirmed"),
        revocations_partial=entries("agent.revocation-partial", "fleet.revocation-partial"),
        packages=entries("package.uploaded"),
        packages_refused=entries("package.refused"),
        releases=entries("release.created"),
        deployments_started=entries("deployment.started"),
        deployments_ended=entries(
            "deployment.aborted", "deployment.completed", "deployment.rolled-back"
        ),
        grants_issued=entries("grant.issued"),
        grants_denied=entries("grant.denied"),
        kek_rotations=entries("kek.rotated"),
        decryptions=entries("agent.reported.model.decrypted"),
        decryption_failures=entries("agent.reported.decryption.failed"),
        violations=of_section("violations"),
        changes=of_section("changes"),
        sign_ins=entries("session.signed-in"),
        sign_ins_failed=times("session.failed", "second-factor.failed"),
    )
