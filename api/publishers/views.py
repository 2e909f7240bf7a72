"""Bodies and answers about publishers."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field

from api.agents.views import Presence
from api.views import Body, Line, Reason, View
from tensorguard.services.trust import publishers
from tensorguard.services.trust.publisher_overview import PublisherOverview
from tensorguard.services.trust.publisher_standing import Standing
from tensorguard.services.trust.publishers import Succession


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Names = Annotated[list[Line], Field(min_length=1, max_length=publishers.MAX_NAMES)]
Pem = Annotated[str, Field(max_length=1000, pattern=r"^[\n\r -~]*$")]
Kid = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PublisherView(View):
    """A publisher: `kid` is the SHA-256 of its public key.

    `told_in` is the trust bundle that says of it what this says (of one that is revoked, by leaving
    it out); `agents_told` of all `agents` that are active have that one. `awaits_bundle`: the next
    bundle has yet to be signed for agents to learn of this.
    """

    kid: str
    name: str
    alg: str
    state: Standing
    names: list[str]
    not_before: datetime
    not_after: datetime
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
    revoked_reason: str | None
    succeeds: str | None
    succeeded_by: str | None
    packages: int
    told_in: int | None
    awaits_bundle: bool
    agents: int
    agents_told: int


class AgentBeliefView(View):
    """An active agent, and whether it has the trust bundle that tells of the publisher.

    `trust_version` null: it has not said which bundle it has.
    """

    id: UUID
    name: str
    fleet: str
    presence: Presence
    trust_version: int | None
    told: bool


class SuccessionBody(Body):
    """Whose place a new publisher takes, and when that one ends; null: when it would anyway."""

    kid: Kid
    predecessor_ends: Moment | None = None


class PublisherRegister(Body):
    """A new publisher: an Ed25519 public key (PEM), and the package names it may sign.

    `not_before` null: at once. A successor has to be valid before the other ends.
    """

    name: Line
    public_pem: Pem
    names: Names
    not_after: Moment
    not_before: Moment | None = None
    succeeds: SuccessionBody | None = None

    def arguments(self) -> dict[str, Any]:
        """What the use case takes."""
        given = self.succeeds
        return {
            "name": self.name,
            "public_pem": self.public_pem,
            "names": self.names,
            "not_after": self.not_after,
            "not_before": self.not_before,
            "succeeds": None if given is None else Succession(**given.model_dump()),
        }


class PublisherChange(Body):
    """What a publisher may sign from now on, and until when; null leaves it as it is."""

    names: Names | None = None
    not_after: Moment | None = None
    reason: Reason


class PublisherRevoke(Body):
    """Why the publisher's signature counts no more."""

    reason: Reason


def publisher_view(found: PublisherOverview) -> PublisherView:
    """Translate a publisher and what has become of it."""
    one = found.publisher
    return PublisherView(
        kid=one.kid,
        name=one.name,
        alg=one.alg,
        state=found.state,
        names=one.names,
        not_before=one.not_before,
        not_after=one.not_after,
        created_at=one.created_at,
        created_by=one.created_by,
        revoked_at=one.revoked_at,
        revoked_reason=one.revoked_reason,
        succeeds=one.succeeds,
        succeeded_by=found.succeeded_by,
        packages=found.packages,
        told_in=one.told_in,
        awaits_bundle=found.awaits_bundle,
        agents=found.agents,
        agents_told=found.agents_told,
    )
