"""`tensorguard hub replay`: what it needs of a hub, without being one."""

from datetime import datetime

from hub.errors import HubError
from hub.settings import HubSettings
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.services.certificates.certificates import ServiceCertificate
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import check_schema, create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider


class NothingToReplay(HubError):
    """Uplinks are kept by no engine but NATS."""

    code = "nothing-to-replay"
    hint = "Set TG_BROKER_ENGINE=nats and TG_NATS_URL, as for the hubs."


async def replay_since(settings: HubSettings, since: datetime) -> tuple[int, int]:
    """Have the hubs read everything since then again; return partitions and messages.

    Raises: HubError, StoreError, PlatformNotInitialised, VaultError.
    """
    if settings.broker_engine != "nats":
        raise NothingToReplay("an embedded broker front keeps no uplinks")
    from hub.nats.replay import replay
    from hub.nats.share import most_unacked

    engine = create_engine(settings.database_url, service="replay", pool_size=2)
    sessions = session_maker(engine)
    try:
        await check_schema(engine)
        async with sessions() as session:
            kek = LocalKeyProvider.open(settings.data_dir / KEK_FILE)
            keyring = await Keyring.load(session, kek)
        certificate = ServiceCertificate(
            keyring.ca, ServiceIdentity(keyring.trust_domain, "hub"), hosts=()
        )
        begun = await replay(
            sessions,
            settings.nats_urls,
            certificate.client_context(keyring.trust.cas),
            since=since,
            unacked=most_unacked(settings.intake_limit),
        )
    finally:
        await engine.dispose()
    return begun.partitions, begun.messages
