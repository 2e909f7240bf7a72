"""Holding an upload while its bytes are written or read: a lease that is renewed, or ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa
import structlog

from tensorguard.services.deployments import uploads
from tensorguard.services.deployments.upload_errors import LeaseLost, UploadBusy
from tensorguard.services.deployments.uploads import LEASE, Upload
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()


@dataclass(slots=True)
class Held:
    """An upload that is ours for now; what `verified_bytes` is set to is told to who asks."""

    upload: Upload
    verified_bytes: int = 0


@contextlib.asynccontextmanager
async def holding(
    sessions: SessionMaker, upload_id: UUID, clock: Callable[[], datetime]
) -> AsyncIterator[Held]:
    """Hold an upload while the block runs; the block ends when the lease cannot be kept.

    Raises: UploadBusy, LeaseLost.
    """
    async with sessions.begin() as session:
        upload = await uploads.take_lease(session, upload_id, uuid4(), now=clock())
    if upload is None:
        raise UploadBusy(f"another request works on upload {upload_id}")
    held = Held(upload)
    try:
        async with asyncio.timeout(LEASE.total_seconds()) as deadline:
            renewing = asyncio.create_task(_keep_renewed(sessions, held, clock, deadline))
            try:
                yield held
            finally:
                renewing.cancel()
                await asyncio.wait([renewing])
    except TimeoutError:
        if not deadline.expired():
            raise
        raise LeaseLost(f"upload {upload_id} was taken away meanwhile") from None
    finally:
        async with sessions.begin() as session:
            await uploads.release(session, held.upload)


async def _keep_renewed(
    sessions: SessionMaker, held: Held, clock: Callable[[], datetime], deadline: asyncio.Timeout
) -> None:
    """Renew the lease, three times as often as it takes; where that fails the deadline comes."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LEASE.total_seconds() / 3)
        asked_at = loop.time()
        try:
            async with sessions.begin() as session:
                is_ours = await uploads.renew_lease(
                    session, held.upload, verified_bytes=held.verified_bytes, now=clock()
                )
        except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
            log.warning("upload_lease_not_renewed", reason=str(getattr(error, "orig", error)))
            continue
        deadline.reschedule(asked_at + LEASE.total_seconds() if is_ours else loop.time())
        if not is_ours:
            return
