"""Who gets into a NATS server that runs our configuration, with no responder at the callout."""

from pathlib import Path

import pytest
from nats.errors import Error, NoServersError

from broker.nats.keys import CalloutKeys
from tests.integration.broker.certificates import Credentials, Platform
from tests.integration.nats.server import RunningServer, running_server


async def answered(server: RunningServer, credentials: Credentials, **options: str) -> None:
    """Connect, and be answered: the client believes a server that hangs up to be connected."""
    connection = await server.connect(credentials, allow_reconnect=False, **options)
    try:
        await connection.flush(timeout=15)  # who is refused never hears more
    finally:
        await connection.close()


async def test_services_are_known_by_their_certificate_and_agents_are_not_services(
    tmp_path: Path,
) -> None:
    platform = Platform(tmp_path)
    async with running_server(tmp_path, platform.authority, CalloutKeys.generate()) as server:
        for service in (platform.hub, platform.service("broker")):
            await answered(server, service)
        hub = "spiffe://test.example/service/hub"
        for stranger in (platform.agent(), platform.service("api")):
            with pytest.raises((Error, NoServersError, TimeoutError)):
                await answered(server, stranger, user=hub, password="")
        assert server.log_path.read_text().count("authentication error") == 2
