"""Bodies and answers about agents."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field, model_validator

from api.fleets.views import Slug
from api.views import Body, Reason, View
from tensorguard.services.enrollment.admission import MOST_AT_ONCE

Status = Literal["pending", "active", "rejected", "revoked"]
Presence = Literal["never", "online", "late", "offline"]
EnrolledBy = Literal["token", "mtls"]


class RunningPackageView(View):
    """The package that an agent says it runs."""

    name: str
    version: str
    digest: str


class AgentView(View):
    """An agent in a list. Figures are those of its last heartbeat."""

    id: UUID
    fleet: str
    name: str
    tags: dict[str, str]
    status: Status
    presence: Presence
    presence_since: datetime
    trust_score: int
    last_heartbeat_at: datetime | None
    health: str | None
    cpu_percent: float | None
    memory_percent: float | None
    disk_percent: float | None
    package: RunningPackageView | None
    agent_version: str | None
    created_at: datetime
    enrolled_at: datetime | None
    enrolled_by: EnrolledBy
    revoked_at: datetime | None
    certificate_not_after: datetime | None
    move_to: str | None
    revision: int


class CertificateView(View):
    """A certificate that was issued to an agent."""

    serial: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime
    first_connected_at: datetime | None
    superseded_at: datetime | None


class PositionView(View):
    """Where a stream of desired documents stands."""

    epoch: int
    revision: int


class DesiredView(PositionView):
    """What the agent should run."""

    deployment_id: UUID | None
    package_digest: str | None


class AgentDetail(AgentView):
    """Everything that is known of one agent."""

    status_reason: str | None
    facts: dict[str, Any]
    token_id: UUID | None
    token_revoked_at: datetime | None
    """When the token that the agent came with was revoked: an approval asks for a second look."""
    released_at: datetime | None
    manufacturer_ca_id: UUID | None
    device_serial: str | None
    boot_id: UUID | None
    boot_count: int | None
    temperature_c: float | None
    accelerators: list[dict[str, Any]] | None
    metrics: dict[str, Any] | None
    clock_offset_s: float | None
    trust_version: int | None
    config_revision: int | None
    desired: DesiredView | None
    has_desired: PositionView | None
    certificates: list[CertificateView]


class Revoke(Body):
    """Why the agent has to go: stands in the ledger for ever."""

    reason: Reason


class Approve(Body):
    """Nothing more needs to be said."""


class Reject(Body):
    """Why the device may not join: it is told, and it stands in the ledger for ever."""

    reason: Reason


class Release(Body):
    """Why the device's keys may enrol anew: stands in the ledger for ever."""

    reason: Reason


class Decide(Body):
    """The same decision about several agents; only a rejection has a reason."""

    ids: Annotated[list[UUID], Field(min_length=1, max_length=MOST_AT_ONCE)]
    decision: Literal["approve", "reject"]
    reason: Reason | None = None

    @model_validator(mode="after")
    def _gives_a_reason_to_those_rejected(self) -> Self:
        if (self.decision == "reject") != (self.reason is not None):
            raise ValueError("a rejection has a reason, an approval has none")
        return self


class UndecidedView(View):
    """An agent about which nothing was decided, and why not."""

    id: UUID
    code: str
    detail: str


class DecisionsView(View):
    """What became of several agents."""

    decided: list[UUID]
    failed: list[UndecidedView]


class Move(Body):
    """The fleet to go to."""

    fleet: Slug


class FrontView(View):
    """What one broker front did, and after how long."""

    front: str
    denied_at: datetime
    disconnected: int
    disconnected_at: datetime | None
    took_ms: int


class ReceiptView(View):
    """A revocation; `partial` while `waiting_for` names fronts that have not confirmed it.

    Those `not_answering` have lost their lease: they admit nobody, and end their sessions within
    minutes.
    """

    agent_id: UUID
    seq: int
    state: Literal["complete", "partial"]
    reason: str
    revoked_at: datetime
    revoked_by: str
    fronts: list[FrontView]
    waiting_for: list[str]
    not_answering: list[str]


class TelemetryPoint(View):
    """The heartbeats that arrived within one step: averages and extremes.

    `degraded` and `errors` are those that said so.
    """

    at: datetime
    heartbeats: int
    degraded: int
    errors: int
    cpu_percent: float
    cpu_percent_min: float
    cpu_percent_max: float
    memory_percent: float
    memory_percent_min: float
    memory_percent_max: float
    disk_percent: float
    disk_percent_min: float
    disk_percent_max: float
    temperature_c: float | None
    temperature_c_min: float | None
    temperature_c_max: float | None


class TelemetryView(View):
    """An agent's telemetry; a step without heartbeats has no point."""

    since: datetime
    until: datetime
    resolution: Literal["raw", "1m", "1h", "1d"]
    step_s: float
    points: list[TelemetryPoint]


class TimelineEntry(View):
    """An entry of the ledger about an agent; `leaf_index` is null until it is sequenced."""

    id: UUID
    time: datetime
    type: str
    actor_kind: str
    actor_id: str
    outcome: str
    details: dict[str, Any]
    leaf_index: int | None


def agent_view(row: sa.RowMapping) -> AgentView:
    """Return an agent as a list shows it."""
    return AgentView(**_summary(row))


def agent_detail(row: sa.RowMapping, certificates: list[sa.RowMapping]) -> AgentDetail:
    """Return an agent with everything that is known of it."""
    desired = None
    if row["desired_revision"] is not None:
        desired = DesiredView(
            epoch=row["desired_epoch"],
            revision=row["desired_revision"],
            deployment_id=row["desired_deployment_id"],
            package_digest=_hex(row["desired_package_digest"]),
        )
    has_desired = None
    if row["has_desired_revision"] is not None:
        has_desired = PositionView(
            epoch=row["has_desired_epoch"], revision=row["has_desired_revision"]
        )
    offset_s = None
    if row["sent_at"] is not None and row["last_heartbeat_at"] is not None:
        offset_s = (row["sent_at"] - row["last_heartbeat_at"]).total_seconds()
    booted = row["boot_id"] is not None
    return AgentDetail(
        **_summary(row),
        **{
            name: row[name]
            for name in (
                "status_reason",
                "facts",
                "token_id",
                "token_revoked_at",
                "released_at",
                "manufacturer_ca_id",
                "device_serial",
                "boot_id",
                "temperature_c",
                "accelerators",
                "metrics",
                "trust_version",
                "config_revision",
            )
        },
        boot_count=row["boot_count"] if booted else None,
        clock_offset_s=offset_s,
        desired=desired,
        has_desired=has_desired,
        certificates=[CertificateView.model_validate(dict(one)) for one in certificates],
    )


def timeline_entry(row: sa.RowMapping) -> TimelineEntry:
    """Return a ledger event with the details that stand in its exact bytes."""
    values = dict(row)
    entry = json.loads(values.pop("entry"))
    return TimelineEntry(**values, details=entry["details"])


def _summary(row: Mapping[Any, Any]) -> dict[str, Any]:
    package = None
    if row["package_digest"] is not None:
        package = RunningPackageView(
            name=row["package_name"] or "",
            version=row["package_version"] or "",
            digest=row["package_digest"].hex(),
        )
    names = [name for name in AgentView.model_fields if name != "package"]
    return {name: row[name] for name in names} | {"package": package}


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
