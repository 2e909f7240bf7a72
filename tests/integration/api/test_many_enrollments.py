"""More devices at once than a token has uses, against the api as a process of its own."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from api.context import ApiContext
from tensorguard.protocol import codec
from tensorguard.store import tables
from tests.integration.api.clients import Api
from tests.integration.api.devices import join_string
from tests.integration.api.flood import Listener, Reply, all_at_once
from tests.integration.api.process import address_of, running_api
from tests.integration.enrollment.builders import Device

NETWORKS = 50
# More than the listener serves at the same time.
CONNECTIONS = 2_500
MOST_TRIES = 200


@pytest.mark.parametrize(
    ("devices", "uses"),
    [
        (400, 200),
        pytest.param(10_000, 5_000, marks=[pytest.mark.deep, pytest.mark.timeout(900)]),
    ],
)
async def test_exactly_as_many_enrol_as_the_token_has_uses(
    api: Api, context: ApiContext, tmp_path: Path, devices: int, uses: int
) -> None:
    fleet = await api.new_fleet()
    join = await join_string(api, fleet, max_uses=uses)
    requests = [codec.encode(Device().request(join)) for _ in range(devices)]
    replies: dict[int, Reply] = {}

    with running_api(context.settings, tmp_path / "api.log") as (process, _):
        port = int(address_of(process, tmp_path / "api.log", "device").rpartition(":")[2])
        listener = Listener(port, context.keyring.ca.certificate_pem)

        async def join_patiently(number: int) -> None:
            # As the protocol asks: 429 and 503 are repeated with back-off, and so is silence.
            for attempt in range(MOST_TRIES):
                try:
                    reply = await listener.enroll(requests[number], f"127.1.{number % NETWORKS}.1")
                except (OSError, TimeoutError):
                    reply = Reply(0, b"")
                if reply.status not in (0, 429, 503):
                    replies[number] = reply
                    return
                await asyncio.sleep(random.uniform(0.5, min(1.0 + attempt, 8.0)))

        await all_at_once(devices, min(devices, CONNECTIONS), join_patiently)
        (lucky, *_) = (number for number, reply in replies.items() if reply.status == 201)
        again = await listener.enroll(requests[lucky])

    assert Counter(reply.status for reply in replies.values()) == {201: uses, 403: devices - uses}
    refused = {json.loads(one.body)["code"] for one in replies.values() if one.status == 403}
    assert refused == {"enrollment-token-exhausted"}
    ids = {json.loads(one.body)["agent_id"] for one in replies.values() if one.status == 201}
    assert len(ids) == uses
    assert again == replies[lucky]
    assert await _stored(context, fleet) == (uses, uses, 0)


async def _stored(context: ApiContext, fleet: str) -> tuple[int, int, int]:
    """How many agents and certificates the fleet has, and uses its token."""
    agents, certificates, tokens = tables.agents, tables.certificates, tables.enrollment_tokens
    of_fleet = sa.select(agents.c.id).where(agents.c.fleet == fleet)
    async with context.sessions() as session:
        made = await session.scalar(sa.select(sa.func.count()).select_from(of_fleet.subquery()))
        issued = await session.scalar(
            sa.select(sa.func.count())
            .select_from(certificates)
            .where(certificates.c.agent_id.in_(of_fleet))
        )
        left = await session.scalar(sa.select(tokens.c.uses_left).where(tokens.c.fleet == fleet))
    return made or 0, issued or 0, left or 0
