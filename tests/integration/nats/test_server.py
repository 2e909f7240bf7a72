"""Who gets into a NATS server that runs our configuration, with no responder at the callout."""

import asyncio
from pathlib import Path

from broker.nats.keys import CalloutKeys
from tests.integration.broker.certificates import Platform
from tests.integration.nats.server import RunningServer, answered, running_server
from tests.patience import PATIENCE_S


async def test_services_are_known_by_their_certificate_and_agents_are_not_services(
    tmp_path: Path,
) -> None:
    platform = Platform(tmp_path)
    async with running_server(tmp_path, platform.authority, CalloutKeys.generate()) as server:
        for service in (platform.hub, platform.service("broker")):
            await answered(server, service)
        hub = "spiffe://test.example/service/hub"
        for refused, stranger in enumerate((platform.agent(), platform.service("api")), 1):
            asking = asyncio.create_task(answered(server, stranger, user=hub, password=""))
            await until_refused(server, refused)
            asking.cancel()
            (outcome,) = await asyncio.gather(asking, return_exceptions=True)
            assert isinstance(outcome, BaseException)


async def until_refused(server: RunningServer, times: int) -> None:
    """Wait until the server says so: its client would believe for long to be connected."""
    async with asyncio.timeout(PATIENCE_S):
        while server.log_path.read_text().count("authentication error") < times:  # noqa: ASYNC110  a log
            await asyncio.sleep(0.02)
