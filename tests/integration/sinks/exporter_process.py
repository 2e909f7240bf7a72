"""The hub's exporter as a process of its own, to be killed: DATABASE_URL, DATA_DIR."""

import asyncio
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hub.exporter import Exporter
from hub.sink_export import ExportWork, Pace
from hub.sink_locks import SinkLocks
from tensorguard.services.sinks.sink_clients import Outside
from tensorguard.siem.address_guard import AddressGuard, parse_networks
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider


async def main(url: str, data_dir: Path) -> None:
    guard = AddressGuard(parse_networks("127.0.0.1/32"))
    work = ExportWork(
        sessions=session_maker(create_engine(url, service="test")),
        kek=LocalKeyProvider.open_or_create(data_dir / KEK_FILE),
        outside=Outside(guard=guard, data_dir=data_dir, trust_domain="example.org"),
        clock=lambda: datetime.now(UTC),
        random=random.SystemRandom(),
        pace=Pace(idle=timedelta(milliseconds=20), first=timedelta(milliseconds=20)),
    )
    every = timedelta(milliseconds=20)
    await Exporter(work, SinkLocks(url), look_every=every).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
