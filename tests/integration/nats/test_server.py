"""Who gets into a NATS server that runs our configuration, with no responder at the callout."""

from pathlib import Path

import pytest
from nats.errors import Error, NoServersError

from broker.nats.keys import CalloutKeys
from tests.integration.broker.certificates import Platform
from tests.integration.nats.server import answered, running_server


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
