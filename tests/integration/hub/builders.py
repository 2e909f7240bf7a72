"""A hub on a real database, with a front made of lists instead of a network."""

import asyncio
import json
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.downlink import Downlink
from hub.ingest import Ingest
from hub.uplink import LeaseLost, Uplink
from hub.work import Work
from tensorguard.protocol import codec, topics
from tensorguard.protocol.messages import Ack
from tensorguard.protocol.topics import DownKind, FrontKind, FrontTopic, UpKind
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store import tables
from tensorguard.store.engine import SessionMaker
from tensorguard.store.ids import new_id
from tests.patience import PATIENCE_S
from tests.unit.protocol.builders import GOOD

FLEET = "hospital-a"


class Clock:
    """A clock that stands still until a test moves it; heartbeats need a partition of today."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> datetime:
        self.now += timedelta(**duration)
        return self.now


class ListFront:
    """An `UplinkSource` that a test fills and reads."""

    leads = True
    share = 1.0

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.lost: set[Uplink] = set()
        self.waiting: list[Uplink] = []
        self.acked: list[Uplink] = []
        self.sent: list[Downlink] = []
        self.arrived = asyncio.Event()
        self._changed = asyncio.Event()

    def deliver(self, *uplinks: Uplink) -> None:
        self.waiting += uplinks
        self.arrived.set()

    async def receive(self, most: int, wait_s: float) -> list[Uplink]:
        try:
            async with asyncio.timeout(wait_s):
                while not self.waiting:
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError:
            return []
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to end."""

    def use(self, tls: ssl.SSLContext) -> None:
        """There is nothing to connect to."""

    def finish(self) -> None:
        """What was delivered is taken."""

    async def fence(self, session: AsyncSession, uplinks: Sequence[Uplink]) -> None:
        if self.lost.intersection(uplinks):
            raise LeaseLost([one for one in uplinks if one not in self.lost])

    def ack(self, uplinks: Sequence[Uplink]) -> None:
        self.acked += uplinks
        self._changed.set()

    async def until_acked(self, count: int) -> None:
        """Wait until so many messages are acked."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acked) < count:
                self._changed.clear()
                await self._changed.wait()

    def publish(self, downlinks: Sequence[Downlink]) -> int:
        self.sent += downlinks
        return 0

    def received(self, kind: DownKind, agent_id: UUID, fleet: str = FLEET) -> list[bytes]:
        """What was sent to one agent, oldest first."""
        topic = topics.down(fleet, agent_id, kind)
        return [downlink.payload for downlink in self.sent if downlink.topic == topic]

    def acks(self, agent_id: UUID) -> list[Ack]:
        return [codec.decode(Ack, payload) for payload in self.received(DownKind.ACK, agent_id)]


def uplink(
    kind: UpKind | FrontKind,
    agent_id: UUID,
    received_at: datetime,
    /,
    *,
    fleet: str = FLEET,
    front: str = "front-1",
    **changes: Any,
) -> Uplink:
    """A good message of `kind`, but for the changes."""
    body = dict(GOOD[kind]) | changes
    if isinstance(kind, UpKind):
        topic = topics.up(fleet, agent_id, kind)
    else:
        topic = str(FrontTopic(front, kind))
        if "agent_id" in body:
            body |= {"agent_id": str(agent_id), "fleet": fleet}
        body |= {"at": changes.get("at", received_at.isoformat())}
    return Uplink(topic, json.dumps(body).encode(), received_at)


async def add_agent(
    sessions: SessionMaker, now: datetime, *, agent_id: UUID | None = None, status: str = "active"
) -> UUID:
    """Insert an agent as enrollment leaves it."""
    agent_id = agent_id or new_id()
    async with sessions.begin() as session:
        await session.execute(
            sa.insert(tables.agents).values(
                id=agent_id,
                fleet=FLEET,
                name=f"agent-{agent_id}",
                tags={},
                facts={},
                status=status,
                enrolled_by="token",
                enrolled_spki_sha256=secrets.token_bytes(32),
                encryption_key=secrets.token_bytes(32),
                created_at=now,
                enrolled_at=now,
            )
        )
        await session.execute(sa.insert(tables.agent_state).values(agent_id=agent_id))
        await session.execute(
            sa.insert(tables.agent_status).values(
                agent_id=agent_id, presence="never", presence_since=now
            )
        )
    return agent_id


async def add_fleet(sessions: SessionMaker, now: datetime) -> None:
    async with sessions.begin() as session:
        await session.execute(
            sa.insert(tables.fleets).values(slug=FLEET, name="A", created_at=now, created_by="test")
        )


@dataclass
class Hub:
    """What runs in the hub's process, without its loops: a test decides when something happens."""

    sessions: SessionMaker
    keyring: Keyring
    work: Work
    clock: Clock
    front: ListFront = field(default_factory=ListFront)

    def ingest(self, **settings: Any) -> Ingest:
        known: dict[str, Any] = {"batch_messages": 500, "flush_after_s": 0.05}
        return Ingest(self.front, self.work, **(known | settings))

    async def take(self, *uplinks: Uplink, **settings: Any) -> None:
        """Let messages arrive, and the hub store all of them."""
        self.front.deliver(*uplinks)
        stopped = asyncio.Event()
        stopped.set()
        await self.ingest(**settings).run(stopped)

    async def add_agent(self, **settings: Any) -> UUID:
        return await add_agent(self.sessions, self.clock.now, **settings)

    def event(self, agent_id: UUID, log_id: UUID, number: int, **changes: Any) -> Uplink:
        known: dict[str, Any] = {"log_id": str(log_id), "number": number, "oldest": 1}
        return uplink(UpKind.EVENT, agent_id, self.clock.now, **(known | changes))

    def heartbeat(self, agent_id: UUID, seq: int, **changes: Any) -> Uplink:
        return uplink(UpKind.HEARTBEAT, agent_id, self.clock.now, seq=seq, **changes)

    async def rows(self, statement: str, **values: Any) -> list[Any]:
        async with self.sessions() as session:
            return list((await session.execute(sa.text(statement), values)).all())

    async def value(self, statement: str, **values: Any) -> Any:
        async with self.sessions() as session:
            return (await session.execute(sa.text(statement), values)).scalar()

    async def entries(self, type_: str) -> list[dict[str, Any]]:
        """The ledger's entries of a type or, with a dot at the end, of all types below it."""
        condition = "type LIKE :type || '%'" if type_.endswith(".") else "type = :type"
        rows = await self.rows(
            f"SELECT entry FROM ledger_events WHERE {condition} ORDER BY id", type=type_
        )
        return [json.loads(bytes(row.entry)) for row in rows]
