"""A ledger, sinks and their exporters, driven a step at a time on a clock that stands still."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from hub.sequencer import Sequencer
from hub.sink_export import ExportWork, Pace, SinkExport
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor, Event
from tensorguard.services.sinks import sink_changes
from tensorguard.services.sinks.sink_clients import Outside, open_client
from tensorguard.services.sinks.sink_configs import parse_config
from tensorguard.services.sinks.sinks import Sink, get_sink
from tensorguard.siem.address_guard import AddressGuard, parse_networks
from tensorguard.siem.item import SinkClient
from tensorguard.store import tables
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.local import LocalKeyProvider
from tests.integration.ledger.builders import SIGNER, TRUST_DOMAIN, fleet_created, reported
from tests.integration.sinks.far_end import NAME, Authority

OPERATOR = Actor("user", "operator")
PACE = Pace()


class Clock:
    """A clock that stands still until a test moves it, from now on: receivers have their own."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


class Names:
    """The resolver: what names stand for, until a test changes it."""

    def __init__(self) -> None:
        self.addresses = {NAME: ["127.0.0.1"]}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.addresses.get(host, [])


class Half(Random):
    """Jitter without chance."""

    def random(self) -> float:
        return 0.5


@dataclass
class Lab:
    sessions: SessionMaker
    kek: LocalKeyProvider
    folder: Path
    authority: Authority
    clock: Clock = field(default_factory=Clock)
    names: Names = field(default_factory=Names)
    networks: str = "127.0.0.1/32"

    @property
    def outside(self) -> Outside:
        guard = AddressGuard(parse_networks(self.networks), resolve=self.names)
        return Outside(guard=guard, data_dir=self.folder, trust_domain=TRUST_DOMAIN)

    async def write(self, count: int, *, event: Event | None = None) -> None:
        """So many entries more, under a checkpoint."""
        async with self.sessions.begin() as session:
            if event is not None:
                await ledger.record(session, event, now=self.clock())
            elif count == 1:
                await ledger.record(session, fleet_created(), now=self.clock())
            else:
                events = [reported(number) for number in range(count)]
                await ledger.record_many(session, events, now=self.clock())
        await self.sign()

    async def sign(self) -> None:
        """Sequence what waits, and sign it."""
        sequencer = Sequencer(
            self.sessions,
            trust_domain=TRUST_DOMAIN,
            signers=lambda: [SIGNER],
            clock=self.clock,
            random=Random(1),
            checkpoint_every=timedelta(0),
        )
        while await sequencer.step():
            pass

    async def size(self) -> int:
        query = sa.select(sa.func.count()).select_from(tables.ledger_entries)
        async with self.sessions() as session:
            return int((await session.execute(query)).scalar_one())

    async def sink(self, kind: str, secret: str | None = None, **config: Any) -> Sink:
        """A sink that gets all that there is; remote ones believe the test's CA."""
        private = bool(config.pop("private_fields", False))
        name = config.pop("name", kind)
        beginning = config.pop("from_beginning", True)
        if kind not in ("file", "stdout"):
            config.setdefault("ca_pem", self.authority.pem)
        async with self.sessions.begin() as session:
            return await sink_changes.create_sink(
                session,
                self.kek,
                name=name,
                config=parse_config({"kind": kind, **config}),
                secret=secret,
                private_fields=private,
                from_beginning=beginning,
                by=OPERATOR,
                now=self.clock(),
            )

    async def change(self, use_case: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a use case as the operator, in a transaction of its own."""
        async with self.sessions.begin() as session:
            return await use_case(session, *args, **kwargs, by=OPERATOR, now=self.clock())

    async def get(self, sink: Sink) -> Sink:
        async with self.sessions() as session:
            return await get_sink(session, sink.id)

    def export(self, sink: Sink | UUID) -> SinkExport:
        work = ExportWork(
            sessions=self.sessions,
            kek=self.kek,
            outside=self.outside,
            clock=self.clock,
            random=Half(1),
        )
        return SinkExport(sink if isinstance(sink, UUID) else sink.id, work)

    def client(self, sink: Sink, secrets: list[str]) -> SinkClient:
        return open_client(sink, secrets, self.outside)

    async def drain(self, export: SinkExport) -> timedelta | None:
        """Let an exporter work until it rests, or is over."""
        for _ in range(500):
            rest = await export.step()
            if rest is None or rest:
                return rest
        raise AssertionError("it never rests")

    async def told(self, kind: str) -> list[dict[str, Any]]:
        """The details of the ledger's events of a type, the oldest first."""
        table = tables.ledger_events
        query = sa.select(table.c.entry).where(table.c.type == kind).order_by(table.c.id)
        async with self.sessions() as session:
            entries = (await session.execute(query)).scalars()
            return [msgspec.json.decode(entry)["details"] for entry in entries]
