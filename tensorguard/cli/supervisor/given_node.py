"""Says what is wrong with a NATS server that somebody else keeps, while services wait for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tensorguard.cli.supervisor.broker import GivenNode
from tensorguard.cli.supervisor.output import Output
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.services.certificates.certificates import ServiceCertificate
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider

_ASK_EVERY_S = 5.0
_HINT = (
    "run it with 'tensorguard broker nats-server', or with the configuration that 'tensorguard"
    " broker nats-config' prints, on the keys of TG_NATS_KEYS (docs/nats.md)"
)


@asynccontextmanager
async def asking(
    given: GivenNode | None, database_url: str, directory: Path, output: Output
) -> AsyncIterator[None]:
    """While the block runs, ask the given node until it serves, and say why it does not yet."""
    if given is None:
        yield
        return
    task = asyncio.create_task(_ask(given, database_url, directory, output), name="given node")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _ask(given: GivenNode, database_url: str, directory: Path, output: Output) -> None:
    from broker.nats.health import NodeSilent, ask  # the extra `nats`

    engine = create_engine(database_url, service="up", pool_size=1)
    try:
        async with session_maker(engine)() as session:
            kek = LocalKeyProvider.open(directory / KEK_FILE)
            keyring = await Keyring.load(session, kek, only={"ca"})
    finally:
        await engine.dispose()
    identity = ServiceIdentity(keyring.trust_domain, "broker")
    context = ServiceCertificate(keyring.ca, identity).client_context(keyring.trust.cas)
    while True:
        try:
            health = await ask(given.url, context)
        except NodeSilent as error:
            trouble = error.message
        else:
            if not health.trouble:
                output.say("nats_node_serves", name=health.name, url=given.url)
                return
            trouble = health.trouble
        output.say("nats_node_awaited", level="warning", reason=trouble, hint=_HINT)
        await asyncio.sleep(_ASK_EVERY_S)
