"""Verifying whole uploads, on any host and after any crash, and removing those that have ended."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog

from tensorguard.rollouts.errors import RolloutError
from tensorguard.services.deployments import packages, uploads
from tensorguard.services.deployments.packages import Uploaded
from tensorguard.services.deployments.upload_errors import LeaseLost, UploadBusy
from tensorguard.services.deployments.upload_lease import Held, holding
from tensorguard.services.deployments.uploads import Upload
from tensorguard.services.errors import Conflict, Invalid
from tensorguard.services.evidence.event import Actor
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker, store_error
from tensorguard.store.errors import StoreError
from tensorguard.store.package_store import PackageStore, UploadLost
from tensorguard.tgsp.errors import TgspError
from tensorguard.vault.errors import VaultError
from tensorguard.vault.provider import KeyProvider

log = structlog.get_logger()
LOOK_EVERY_S: Final = 2.0
AT_ONCE: Final = 2
_RETRY_FIRST_S: Final = 5.0
_RETRY_MOST_S: Final = 300.0
_RANDOM: Final = random.SystemRandom()
Refusal = TgspError | RolloutError | Invalid | Conflict | UploadLost
REFUSALS: Final = (TgspError, RolloutError, Invalid, Conflict, UploadLost)
"""What is wrong with an upload; every other error is of the moment, and it is tried again."""


class _Stopped(Exception):
    """The service ends while an upload is read."""


class UploadVerifier:
    """Works on uploads that are whole: each becomes a package, or is refused for a reason."""

    def __init__(
        self,
        sessions: SessionMaker,
        store: PackageStore,
        keyring: Keyring,
        kek: KeyProvider,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._keyring = keyring
        self._kek = kek
        self._clock = clock
        self._woken = asyncio.Event()
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Verify what is whole and remove what has ended, until `stop`."""
        working = asyncio.create_task(self._work(), name="upload-rounds")
        await stop.wait()
        self._stopping.set()  # threads that read a file are not cancelled: they look here
        working.cancel()
        await asyncio.wait([working])

    async def step(self) -> int:
        """Verify what is due and remove what has ended, once; return how many there were."""
        async with self._sessions() as session:
            now = self._clock()
            due = await uploads.list_due(session, now=now, limit=AT_ONCE)
            ended = await uploads.list_expired(session, now=now, limit=20)
        await asyncio.gather(*(self._verify_quietly(upload_id) for upload_id in due))
        for upload_id in ended:
            await self._remove(upload_id)
        return len(due) + len(ended)

    async def verify(self, upload_id: UUID) -> Uploaded:
        """Verify a whole upload now.

        Raises: one of REFUSALS where it was refused; UploadBusy, LeaseLost, StoreError, VaultError
            where that is not decided yet.
        """
        async with holding(self._sessions, upload_id, self._clock) as held:
            return await self.verify_held(held)

    async def verify_held(self, held: Held) -> Uploaded:
        """Verify a whole upload that is held, as `verify` does."""
        try:
            uploaded = await self._admit(held)
        except REFUSALS as error:
            await self._refuse(held.upload, error)
            raise
        await self._discard(held.upload)
        return uploaded

    async def end(self, upload_id: UUID) -> None:
        """Let an upload's time be over, and remove it now if that is possible."""
        async with self._sessions.begin() as session:
            await uploads.end_upload(session, upload_id, now=self._clock())
        await self._remove(upload_id)

    async def note_refusal(self, code: str, *, by: Actor) -> None:
        """Write down that something was refused of which nothing is known."""
        async with self._sessions.begin() as session:
            await packages.record_refusal(
                session, code, size_bytes=None, sha256=None, by=by, now=self._clock()
            )

    async def sweep_strays(self) -> None:
        """Remove incoming files that no row knows, as after the restoration of a database."""
        try:
            names = await self._store.list_strays()
            async with self._sessions() as session:
                known = {str(upload_id) for upload_id in await uploads.list_ids(session)}
            strays = [name for name in names if name not in known]
            for name in strays:
                await self._store.remove_stray(name)
        except (StoreError, OSError, sa.exc.SQLAlchemyError, psycopg.Error) as error:
            log.warning("stray_uploads_not_removed", reason=_reason(error))
        else:
            if strays:
                log.info("stray_uploads_removed", files=len(strays))

    async def _work(self) -> None:
        await self.sweep_strays()
        while True:
            self._woken.clear()
            try:
                if await self.step():
                    continue
            except Exception as error:
                # What one upload does to us is its own; this is the database, and comes back.
                log.error("uploads_not_looked_at", reason=_reason(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._woken.wait()

    async def _verify_quietly(self, upload_id: UUID) -> None:
        try:
            await self.verify(upload_id)
        except REFUSALS as error:
            log.info("upload_refused", upload=str(upload_id), code=error.code)
        except (UploadBusy, LeaseLost, _Stopped):
            pass  # another host works on it, now or later
        except Exception as error:
            await self._postpone(upload_id, error)

    async def _admit(self, held: Held) -> Uploaded:
        upload = held.upload
        if upload.state != "verifying":
            raise UploadBusy(f"upload {upload.id} is not to be verified")
        assert upload.length_bytes is not None  # as the table demands
        incoming = await self._store.finish(upload.place, upload.length_bytes)

        def progress(done_bytes: int, _: int) -> None:
            if self._stopping.is_set():
                raise _Stopped
            held.verified_bytes = done_bytes

        now = self._clock()
        async with self._sessions() as session:
            publishers = await packages.list_signing_keys(session)
        verified = await packages.verify_upload(
            incoming, publishers, self._keyring.recipient_key, now, progress
        )
        await self._store.stage(incoming, verified.package.digest, verified.sha256)
        async with self._sessions.begin() as session:
            now = self._clock()
            uploaded = await packages.admit_package(
                session, self._kek, self._store, verified, by=upload.by, now=now
            )
            values = {"package_digest": uploaded.package.digest, "code": None}
            await uploads.become(session, upload, "done", now=now, **values)
        return uploaded

    async def _refuse(self, upload: Upload, error: Refusal) -> None:
        """Write down that and why an upload is refused; nothing of it stays."""
        size_bytes, sha256 = await self._read_refused(upload)
        now = self._clock()
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        async with self._sessions.begin() as session:
            await uploads.become(session, upload, "refused", now=now, **told)
            await packages.record_refusal(
                session,
                error.code,
                size_bytes=size_bytes,
                sha256=sha256,
                by=upload.by,
                now=now,
            )
        await self._discard(upload)

    async def _read_refused(self, upload: Upload) -> tuple[int | None, bytes | None]:
        """Return size and SHA-256 of what was refused, for who asks afterwards what it was."""
        try:
            incoming = await self._store.finish(upload.place, upload.length_bytes or 0)
            return incoming.size_bytes, await asyncio.to_thread(packages.hash_file, incoming)
        except UploadLost:
            return None, None

    async def _postpone(self, upload_id: UUID, error: Exception) -> None:
        """Try again later, less and less often: it is not the package that is at fault."""
        found = store_error(error) or error
        if isinstance(found, StoreError | VaultError):
            told = (found.code, found.message, found.hint)
            log.warning("upload_postponed", upload=str(upload_id), code=found.code)
        else:
            told = ("internal-error", "The platform failed.", "It is tried again by itself.")
            log.error("upload_failed", upload=str(upload_id), exc_info=error)
        try:
            async with holding(self._sessions, upload_id, self._clock) as held:
                most_s = min(_RETRY_FIRST_S * 2.0 ** min(held.upload.attempts, 10), _RETRY_MOST_S)
                until = self._clock() + timedelta(seconds=most_s * (0.5 + _RANDOM.random() / 2))
                async with self._sessions.begin() as session:
                    await uploads.postpone(session, held.upload, told, until=until)
        except (UploadBusy, LeaseLost, sa.exc.SQLAlchemyError, psycopg.Error) as again:
            log.warning("upload_not_postponed", upload=str(upload_id), reason=_reason(again))

    async def _discard(self, upload: Upload) -> None:
        """Remove what the store has; if it cannot now, that is done when the row ends."""
        try:
            await self._store.discard(upload.place)
        except (StoreError, OSError) as error:
            log.warning("upload_not_discarded", upload=str(upload.id), reason=_reason(error))

    async def _remove(self, upload_id: UUID) -> None:
        """Remove an upload that has ended, and then its row."""
        try:
            async with holding(self._sessions, upload_id, self._clock) as held:
                await self._store.discard(held.upload.place)
                async with self._sessions.begin() as session:
                    await uploads.forget(session, held.upload)
        except (UploadBusy, LeaseLost):
            pass  # somebody has it: at the next look
        except (StoreError, OSError) as error:
            await self._postpone(upload_id, error)


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", error))[:300]
