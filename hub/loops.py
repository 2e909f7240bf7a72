"""What the hub does besides ingest: loops that run until they are told to end."""

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime

from hub.exporter import Exporter
from hub.news import Newscaster
from hub.outbox import Outbox
from hub.presence import PresenceSweeper
from hub.rollouts import RolloutController
from hub.sequencer import Sequencer
from hub.settings import HubSettings
from hub.settling import Settler
from hub.sink_export import ExportWork
from hub.sink_locks import SinkLocks
from hub.upkeep import Upkeep
from hub.uplink import UplinkSource
from hub.witness import Witness
from hub.work import Work
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.services.certificates.certificates import ServiceCertificate
from tensorguard.services.certificates.certifier import Certifier
from tensorguard.services.evidence.checkpoint_file import checkpoint_file
from tensorguard.services.keys.following import KeyringFollower
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.kek_watch import KekWatch
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.keys.rewrapping import Rewrapper
from tensorguard.services.sinks.sink_clients import Outside
from tensorguard.siem.address_guard import AddressGuard, parse_networks
from tensorguard.store.engine import SessionMaker

Loop = Callable[[asyncio.Event], Coroutine[None, None, None]]


@dataclass(frozen=True)
class Store:
    """The database, and the keys that are sealed in it."""

    sessions: SessionMaker
    kek: KekProviders
    keyring: Keyring


class Identity:
    """The hub's certificate, and whom it trusts: as the keyring says now."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        identity = ServiceIdentity(keyring.trust_domain, "hub")
        self.certificate = ServiceCertificate(keyring.ca, identity, hosts=())
        self._known = self._now()

    def context(self) -> ssl.SSLContext:
        """What connects to the broker."""
        return self.certificate.client_context(self._keyring.trust.cas)

    def follow(self, source: UplinkSource) -> None:
        """Use what has become of the keyring; connections change only where that differs."""
        self.certificate.use(self._keyring.ca)
        if self._known != (now := self._now()):
            self._known = now
            source.use(self.context())

    def _now(self) -> tuple[object, ...]:
        return self.certificate.certificate, *self._keyring.trust.cas


async def make_loops(
    settings: HubSettings,
    store: Store,
    identity: Identity,
    source: UplinkSource,
    work: Work,
    clock: Callable[[], datetime],
) -> dict[str, Loop]:
    """Return every loop by its name; what a loop needs before the first message is there by then.

    Raises: BadSink, StoreError.
    """
    sessions, kek, keyring = store.sessions, store.kek, store.keyring

    def leads() -> bool:
        return source.leads

    witness = Witness(
        sessions,
        work.echoes,
        file=checkpoint_file(settings.data_dir),
        bucket=settings.checkpoint_bucket(),
        clock=clock,
        bucket_every=settings.ledger_bucket_every,
        leads=leads,
    )
    await witness.check()
    outbox = Outbox(sessions, source, work, database_url=settings.database_url, clock=clock)
    await outbox.reload_configs()
    following = KeyringFollower(
        keyring, kek, sessions, settings.database_url, [lambda: identity.follow(source)]
    )
    rollouts = RolloutController(
        sessions, keyring, clock=clock, leads=leads, monotonic=time.monotonic
    )
    sequencer = Sequencer(
        sessions,
        trust_domain=keyring.trust_domain,
        signers=lambda: [signer.private_key for signer in keyring.ledger_signers],
        clock=clock,
        random=random.SystemRandom(),
    )
    certifier = Certifier(sessions, keyring, settings.database_url, settings.hosts_of_fronts, clock)
    return {
        "outbox": outbox.run,
        "presence": PresenceSweeper(sessions, clock, leads).run,
        "news": Newscaster(sessions, work.news, clock).run,
        "rollouts": rollouts.run,
        "sequencer": sequencer.run,
        "settler": Settler(sessions, keyring, work.new_connections, clock).run,
        "witness": witness.run,
        "upkeep": Upkeep(sessions, keyring, work, clock, leads).run,
        "certificate": identity.certificate.keep_renewed,
        "keyring": following.run,
        "keks": KekWatch(sessions, kek, clock).run,
        "rewrapper": Rewrapper(sessions, kek, clock).run,
        "exporter": _exporter(settings, store, clock).run,
        # Before there is a front: without its certificate it does not listen.
        "certifier": certifier.run,
    }


def _exporter(settings: HubSettings, store: Store, clock: Callable[[], datetime]) -> Exporter:
    outside = Outside(
        guard=AddressGuard(parse_networks(settings.sink_networks)),
        data_dir=settings.data_dir,
        trust_domain=store.keyring.trust_domain,
    )
    work = ExportWork(
        sessions=store.sessions,
        kek=store.kek,
        outside=outside,
        clock=clock,
        random=random.SystemRandom(),
    )
    return Exporter(work, SinkLocks(settings.database_url))
