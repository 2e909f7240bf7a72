"""How long it takes to revoke a whole fleet: one transaction, with an entry for each agent.

python tests/load/bench_fleet.py [agents]

PostgreSQL is an embedded one of its own; agents are rows.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import create_engine, session_maker
from tests.integration.revocations.builders import Site
from tests.postgres import running_server

LIMIT_S = 2.0


def main(agents: int = 10_000) -> dict[str, float]:
    """Print and give the seconds."""
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root the server is another user, who has to pass through
        server = EmbeddedPostgres(folder / "pg")
        asyncio.run(server.start())
        try:
            with running_server(server.superuser_url) as given:
                url = given.clone("bench_fleet").app_url
                figures = asyncio.run(_measure(url, agents))
                given.drop("bench_fleet")
        finally:
            asyncio.run(server.stop())
    for key, figure in figures.items():
        print(f"{key:32} {figure:8.2f}")
    print(f"under {LIMIT_S:g} s: {max(figures.values()) < LIMIT_S}")
    return figures


async def _measure(url: str, agents: int) -> dict[str, float]:
    engine = create_engine(url, service="bench")
    site = Site(session_maker(engine))
    figures = {}
    for turn in ("first", "second"):
        fleet = await site.fleet(agents)
        await site.run(sa.text("ANALYZE agents"))
        began = time.perf_counter()
        receipt = await site.revoke_fleet(fleet)
        figures[f"revoke_{agents}_agents_{turn}_s"] = time.perf_counter() - began
        assert receipt.agents == agents
    await engine.dispose()
    return figures


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
