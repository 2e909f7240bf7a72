"""Which partition a message belongs to: the server and we must say the same."""

from pathlib import Path

from nats.js.api import StreamConfig, SubjectTransform
from uuid6 import uuid7

from broker.nats.keys import CalloutKeys
from tensorguard.protocol.subjects import FRONT_UP, STREAM, front_subject, partition_of
from tests.integration.broker.certificates import Platform
from tests.integration.nats.server import running_server

PARTITIONS = 7


async def test_a_front_finds_the_partition_that_the_server_puts_an_agents_messages_in(
    tmp_path: Path,
) -> None:
    platform = Platform(tmp_path)
    agents = [str(uuid7()) for _ in range(50)]
    async with running_server(tmp_path, platform.authority, CalloutKeys.generate()) as server:
        hub = await server.connect(platform.hub)
        front = await server.connect(platform.service("broker"))
        stream = hub.jetstream()
        await stream.add_stream(
            StreamConfig(
                name=STREAM,
                # From the front as an agent would send it, so that the server finds the partition.
                subjects=[FRONT_UP],
                subject_transform=SubjectTransform(
                    src=FRONT_UP,
                    dest=f"tgp.{{{{partition({PARTITIONS},2)}}}}.v1._front.{{{{wildcard(2)}}}}"
                    ".up.{{wildcard(3)}}",
                ),
            )
        )
        for agent_id in agents:
            await front.request(front_subject(0, agent_id, "connected"), b"", timeout=10)
        consumer = await stream.pull_subscribe("", stream=STREAM)
        stored = [message.subject.split(".") for message in await consumer.fetch(50, timeout=10)]
        await hub.close()
        await front.close()
    assert [(int(parts[1]), parts[4]) for parts in stored] == [
        (partition_of(agent_id, PARTITIONS), agent_id) for agent_id in agents
    ]
    assert {int(parts[1]) for parts in stored} == set(range(PARTITIONS))
