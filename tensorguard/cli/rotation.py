"""The steps of a CA rotation, each in a transaction, and the waiting between them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from tensorguard.cli.database import OPERATOR
from tensorguard.cli.telling import Teller
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.changes import describe_differences
from tensorguard.pki.draft import Draft
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.services.certificates.authorities import Authority, list_holders
from tensorguard.services.certificates.ca_rotation import (
    Rotation,
    begin_rotation,
    count_open_tokens,
    find_first_version,
    find_issuing_since,
    get_rotation,
    list_fronts_behind,
    measure_awareness,
    promote,
    unaware_message,
)
from tensorguard.services.errors import (
    AgentsUnaware,
    AuthorityInUse,
    RootKeysUnusable,
    Unready,
)
from tensorguard.services.keys.kek_providers import KekProviders, KekSettings
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust import draft_next, lock_publication
from tensorguard.services.trust.trust_publishing import in_use_message, publish
from tensorguard.store.engine import SessionMaker, check_schema, create_engine, session_maker

_LOOK_EVERY_S = 0.5


class RootSignaturesMissing(Unready):
    """The root keys that are here are not enough to sign the next trust bundle."""

    code = "root-signatures-missing"


class FrontsBehind(Unready):
    """Running broker fronts still show certificates of the older CA."""

    code = "fronts-behind"
    hint = "Look at the logs of these fronts, and of the hub; then run the command again."


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `rotate-ca` was asked for; seconds where nothing else is said."""

    within_s: int
    leave: frozenset[UUID]
    patience_s: float
    settle_s: float
    again: bool
    draft: Path | None
    root_keys: Path
    data_dir: Path


class Rotator:
    """Takes the rotation from where the database says it is to its end."""

    def __init__(
        self,
        database_url: str,
        plan: Plan,
        teller: Teller,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database_url = database_url
        self._plan = plan
        self._teller = teller
        self._clock = clock

    async def run(self) -> None:
        """Rotate.

        Raises: StoreError, VaultError, ServiceError; whatever was done until then stands.
        """
        async with self._database() as sessions:
            rotation = await self._read(sessions)
            if not rotation.is_under_way:
                if rotation.was_just_done(self._clock()) and not self._plan.again:
                    text = "the CA was rotated within the last day; --again rotates it once more"
                    self._teller.say("done", text, ca=rotation.issuing.pin)
                    return
                await self._begin(sessions, rotation)
                rotation = await self._read(sessions)
            if rotation.incoming is not None:
                if not rotation.is_published:
                    await self._publish(sessions, renew_within_s=self._plan.within_s)
                await self._promote(sessions, rotation.incoming)
                rotation = await self._read(sessions)
            await self._wait_for_fronts(sessions, rotation.issuing)
            await self._wait_for_agents(sessions, rotation.outgoing)
            store = await self._publish(sessions, without=rotation.outgoing)
            text = f"trust bundle {store.version} leaves out the older CA: the rotation is complete"
            self._teller.say("done", text, ca=rotation.issuing.pin, version=store.version)

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[SessionMaker]:
        engine = create_engine(self._database_url, service="rotate-ca", pool_size=1)
        try:
            await check_schema(engine)
            yield session_maker(engine)
        finally:
            await engine.dispose()

    async def _read(self, sessions: SessionMaker) -> Rotation:
        async with sessions() as session:
            return await get_rotation(session)

    async def _begin(self, sessions: SessionMaker, rotation: Rotation) -> None:
        settings = KekSettings()
        opener = settings.opener(self._plan.data_dir)
        async with sessions.begin() as session:
            kek = await KekProviders.load(session, opener, expected=settings.kek)
            made = await begin_rotation(
                session, kek, rotation.bundle.trust_domain, by=OPERATOR, now=self._clock()
            )
        self._teller.say("made", f"made CA {made.pin}, which does not issue yet", ca=made.pin)

    async def _publish(
        self,
        sessions: SessionMaker,
        *,
        without: Sequence[Authority] = (),
        renew_within_s: int | None = None,
    ) -> TrustStore:
        """Sign with the root keys that are here, or write down what others have to sign."""
        now = self._clock()
        async with sessions.begin() as session:
            await lock_publication(session)
            draft = await draft_next(
                session,
                now=now,
                without=[one.spki_sha256 for one in without],
                renew_within_s=renew_within_s,
            )
            draft = _signed(draft, self._signers())
            if any(one.missing for one in draft.quorums(now)):
                self._hand_over(draft)
            store = await publish(
                session, draft.envelope, by=OPERATOR, now=now, leave=self._plan.leave
            )
        text = f"published trust bundle {store.version}, with {len(store.cas)} CAs"
        self._teller.say("published", text, version=store.version, cas=len(store.cas))
        return store

    def _signers(self) -> list[Ed25519Signer]:
        try:
            return load_root_directory(self._plan.root_keys)
        except RootKeysUnusable:
            return []  # they are where they belong: elsewhere

    def _hand_over(self, draft: Draft) -> None:
        """Write the draft for whoever holds the other keys. Raises: RootSignaturesMissing."""
        path = self._plan.draft or Path(f"trust-bundle-{draft.following.version}.json")
        if path.exists() and not _is_same(path, draft):
            raise RootSignaturesMissing(
                f"{path} is a draft of something else, and may hold signatures",
                hint="Remove it, or name another file with --draft.",
            )
        if not path.exists():
            path.write_bytes(draft.to_bytes())
        raise RootSignaturesMissing(
            f"trust bundle {draft.following.version} needs root keys that are not here: {path}",
            hint=f"Have it signed ('tensorguard trust sign {path} --key …'), publish it"
            f" ('tensorguard trust publish {path}'), and run this command again.",
        )

    async def _promote(self, sessions: SessionMaker, incoming: Authority) -> None:
        await asyncio.sleep(self._plan.settle_s)  # services read what was published
        give_up_at = self._give_up_at()
        while True:
            async with sessions() as session:
                version = await find_first_version(session, incoming)
                assert version is not None, "the bundle was published"
                awareness = await measure_awareness(session, version)
            waiting = [one for one in awareness.unaware if one.agent_id not in self._plan.leave]
            online = awareness.aware + len(waiting)
            self._teller.count(
                "aware",
                f"online agents that know trust bundle {version}"
                f" ({awareness.offline} are offline and catch up later)",
                awareness.aware,
                online,
                offline=awareness.offline,
            )
            if not waiting:
                break
            if asyncio.get_running_loop().time() > give_up_at:
                raise AgentsUnaware(unaware_message(waiting, version))
            await asyncio.sleep(_LOOK_EVERY_S)
        now = self._clock()
        async with sessions.begin() as session:
            await promote(session, incoming, leave=self._plan.leave, by=OPERATOR, now=now)
            tokens = await count_open_tokens(session, now=now)
        text = f"CA {incoming.pin} issues from now on"
        if tokens:
            text += (
                f"; join strings of {tokens} enrollment tokens name the older CA: mint them anew"
            )
        self._teller.say("issuing", text, ca=incoming.pin, open_tokens=tokens)

    async def _wait_for_fronts(self, sessions: SessionMaker, issuing: Authority) -> None:
        """Wait until every front shows a certificate of the CA that issues."""
        give_up_at = self._give_up_at()
        while True:
            async with sessions() as session:
                since = await find_issuing_since(session, issuing)
                now = self._clock()
                if since is None:
                    return
                settled = now >= since + timedelta(seconds=self._plan.settle_s)
                behind = await list_fronts_behind(session, since=since, now=now)
            if settled and not behind:
                return
            if asyncio.get_running_loop().time() > give_up_at:
                raise FrontsBehind(f"without a certificate of the new CA: {', '.join(behind)}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _wait_for_agents(self, sessions: SessionMaker, outgoing: Sequence[Authority]) -> None:
        """Wait until nobody holds a certificate of the older CAs, or nobody comes to renew."""
        loop = asyncio.get_running_loop()
        give_up_at, seen_online_s, most = self._give_up_at(), loop.time(), 0
        while True:
            async with sessions() as session:
                holders = await list_holders(session, outgoing, now=self._clock())
            staying = [one for one in holders if one.agent_id not in self._plan.leave]
            most = max(most, len(staying))
            offline = sum(not one.is_online for one in staying)
            self._teller.count(
                "moving",
                f"agents that have left the older CA ({offline} of the others are offline)",
                most - len(staying),
                most,
                offline=offline,
            )
            if not staying:
                return
            if offline < len(staying):
                seen_online_s = loop.time()
            # Who reconnects with its new certificate is offline for a moment.
            if loop.time() > min(give_up_at, seen_online_s + 2 * self._plan.settle_s):
                raise AuthorityInUse(
                    in_use_message(staying),
                    hint="Run the command again when they have been online, or give them up with"
                    " --leave ID: they would have to ask to come back.",
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    def _give_up_at(self) -> float:
        return asyncio.get_running_loop().time() + self._plan.patience_s


def _signed(draft: Draft, signers: Sequence[Ed25519Signer]) -> Draft:
    roots = {key.kid for one in (draft.current, draft.following) for key in one.keys.root}
    for signer in signers:
        if signer.kid in roots:
            draft = draft.sign(signer)
    return draft


def _is_same(path: Path, draft: Draft) -> bool:
    """Whether a file is a draft of the same, which others may have signed meanwhile."""
    found = Draft.parse(path.read_bytes())
    return (
        found.following.version == draft.following.version
        and found.following.keys.root == draft.following.keys.root
        and not describe_differences(draft.following, found.following)
    )
