"""One batch, one transaction: all that its messages change, and what goes down afterwards."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from hub.batch import Batch
from hub.dead_letters import poison_counts, poisoned, store_dead_letters, tell_poisoned
from hub.denials import denial_counts, denials, tell_denials
from hub.downlink import Downlink, Downlinks
from hub.echoes import Echoes
from hub.enrollments import DeviceEnrollments
from hub.events import store_events
from hub.fleets import FleetConfigs
from hub.heartbeats import StoredHeartbeat, store_heartbeats
from hub.news import News
from hub.presence import store_connections
from hub.repairs import greet, repair, repeat_orders
from hub.settling import NewConnections
from hub.tallies import TOLD_EVERY
from hub.trust_hints import TrustHints
from tensorguard.protocol.topics import DownKind
from tensorguard.services.certificates.renewal import renew
from tensorguard.services.deployments.progress import apply_progress_many, confirm_running
from tensorguard.services.fleets.commands import take_replies
from tensorguard.services.keys.key_release import KeyRelease
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker, driver_connection
from tensorguard.vault.provider import KeyProvider

Fence = Callable[[AsyncSession], Awaitable[None]]


@dataclass(slots=True)
class Outcome:
    """What a committed batch did, and the messages that it owes."""

    heartbeats: int = 0
    events: int = 0
    downlinks: list[Downlink] = field(default_factory=list)


class Work:
    """Stores batches; holds what is needed for it and nothing that a crash could lose."""

    def __init__(
        self,
        sessions: SessionMaker,
        keyring: Keyring,
        kek: KeyProvider,
        clock: Callable[[], datetime],
        enrollments: DeviceEnrollments | None = None,
        share: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`share` says which part of all agents this hub serves."""
        self._share = share
        self._enrollments = enrollments
        self._sessions = sessions
        self._keyring = keyring
        self._key_release = KeyRelease(keyring, kek)
        self._clock = clock
        self._denials = denials()
        self._poisoned = poisoned()
        self._trust_hints = TrustHints()
        self.configs = FleetConfigs.none()
        self.news = News()
        self.echoes = Echoes()
        self.new_connections = NewConnections()

    async def store(self, batch: Batch, fence: Fence | None = None) -> Outcome:
        """Store the batch and commit; on an exception nothing of it has happened.

        `fence` is called first in its transaction, and may raise. Raises: LeaseLost.
        """
        now = self._clock()
        denied, denied_tallies = self._denials.count(denial_counts(batch.denied), now)
        letters, letter_tallies = self._poisoned.count(poison_counts(batch.dead_letters), now)
        downlinks = Downlinks()
        if self._enrollments is not None and batch.enrolls:
            await self._enrollments.answer(batch.enrolls, downlinks, now)
        asked = [(one.agent_id, one.message) for one in batch.key_requests]
        await self._key_release.prepare(self._sessions, asked, now=now)
        async with self._sessions() as session, session.begin():
            if fence is not None:
                await fence(session)
            beats = await store_heartbeats(
                await driver_connection(session), batch.heartbeats, self.configs.intervals
            )
            events = await store_events(session, batch.events, downlinks, now)
            moved_in = await self._store_deployments(session, batch, beats, now)
            await self._answer(session, batch, downlinks, now)
            replies = [(one.agent_id, one.message) for one in batch.replies]
            await take_replies(session, replies, now=now)
            new = await store_connections(session, batch.connected, batch.disconnected, batch.wills)
            await store_dead_letters(session, batch.dead_letters, now)
            await tell_poisoned(session, letters, now)
            await tell_denials(session, denied, now)
            await greet(session, batch.connected, downlinks)
            newest = [beat.source for beat in beats]
            await repair(session, self._keyring, newest, self.configs, downlinks, now)
            await repeat_orders(session, self._keyring, newest, downlinks, now)
            version, share = self._keyring.trust.version, self._share()
            self._trust_hints.tell(newest, version, downlinks, now, share)
        self._denials.settle(denied_tallies)
        self._poisoned.settle(letter_tallies)
        self.news.add(len(beats), moved_in)
        self.echoes.add(newest)
        self.new_connections.add(new)
        return Outcome(len(beats), events, downlinks.items)

    async def tell_tallies(self, *, ending: bool = False) -> None:
        """Write down what agents did wrong until a minute ago, whether messages come or not.

        A hub that is `ending` writes down all of it: the next one does not know.
        """
        now = self._clock()
        if self._enrollments is not None:
            await self._enrollments.tell_failures(now)
        due = now + TOLD_EVERY if ending else now
        denied, letters = self._denials.due(due), self._poisoned.due(due)
        if denied or letters:
            async with self._sessions() as session, session.begin():
                await tell_denials(session, denied, now)
                await tell_poisoned(session, letters, now)
            self._denials.forget(denied)
            self._poisoned.forget(letters)

    async def _store_deployments(
        self, session: AsyncSession, batch: Batch, beats: list[StoredHeartbeat], now: datetime
    ) -> frozenset[UUID]:
        """Move agents in their deployments; return those in which any moved."""
        moved_in: frozenset[UUID] = frozenset()
        if batch.progress:
            reports = [(one.agent_id, one.message) for one in batch.progress]
            moved_in |= (await apply_progress_many(session, reports, now=now)).deployments
        running = {
            beat.source.agent_id: bytes.fromhex(package.digest) if package else None
            for beat in beats
            if beat.package_changed
            for package in [beat.source.message.package]
        }
        if running:
            moved_in |= await confirm_running(session, running, now=now)
        return moved_in

    async def _answer(
        self, session: AsyncSession, batch: Batch, downlinks: Downlinks, now: datetime
    ) -> None:
        requests = [(one.agent_id, one.message) for one in batch.key_requests]
        fleets = {one.agent_id: one.fleet for one in batch.key_requests}
        if requests:
            grants = await self._key_release.answer(session, requests, now=now)
            for agent_id, envelope in grants:
                downlinks.to_agent(fleets[agent_id], agent_id, DownKind.GRANT, envelope)
        for one in sorted(batch.csrs, key=lambda csr: csr.agent_id):
            answer = await renew(session, self._keyring, one.agent_id, one.message, now=now)
            if answer is not None:
                downlinks.to_agent(one.fleet, one.agent_id, DownKind.CERTIFICATE, answer)
