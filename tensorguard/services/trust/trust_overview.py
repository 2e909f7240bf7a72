"""What agents are to believe now, what they do believe, and whose certificates they hold."""

from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.changes import describe_differences
from tensorguard.services.certificates.authorities import State, count_holders, list_authorities
from tensorguard.services.trust.trust import draft_next, get_latest_bundle


@dataclass(frozen=True, slots=True)
class AuthorityOverview:
    """A CA, and how many active agents hold a certificate of it."""

    spki_sha256: str
    state: State
    not_before: datetime
    not_after: datetime
    agents: int


@dataclass(frozen=True, slots=True)
class AgentsOfVersion:
    """How many active agents said that they have this bundle; None: they have said nothing yet."""

    version: int | None
    agents: int


@dataclass(frozen=True, slots=True)
class TrustOverview:
    """The newest bundle, and what has become of it; `roots` are key ids.

    `awaited`: what the platform says and the bundle does not, one line each. The next one will.
    """

    version: int
    issued_at: datetime
    expires_at: datetime
    root_threshold: int
    roots: list[str]
    cas: list[AuthorityOverview]
    agents_by_version: list[AgentsOfVersion]
    awaited: list[str]


_BY_VERSION = sa.text("""
    SELECT s.trust_version, count(*)
    FROM agents a JOIN agent_state s ON s.agent_id = a.id
    WHERE a.status = 'active' GROUP BY 1 ORDER BY 1 DESC NULLS LAST
""")


async def get_trust_overview(session: AsyncSession, *, now: datetime) -> TrustOverview:
    """Return how it stands. Raises: PlatformNotInitialised."""
    store = await get_latest_bundle(session)
    draft = await draft_next(session, now=now)
    # That a publisher's time is over agents see for themselves: no bundle has to say so.
    lasting = msgspec.structs.replace(
        draft.current, publishers=[one for one in draft.current.publishers if one.not_after > now]
    )
    holders = await count_holders(session, now=now)
    return TrustOverview(
        version=store.version,
        issued_at=store.bundle.issued_at,
        expires_at=store.bundle.expires_at,
        root_threshold=store.bundle.root_threshold,
        roots=[key.kid for key in store.bundle.keys.root],
        cas=[
            AuthorityOverview(
                one.pin, one.state, one.not_before, one.not_after, holders.get(one.key_id, 0)
            )
            for one in reversed(await list_authorities(session))
        ],
        agents_by_version=[
            AgentsOfVersion(version, agents)
            for version, agents in await session.execute(_BY_VERSION)
        ],
        awaited=describe_differences(lasting, draft.following),
    )
