"""Idempotency-Key: a POST that is sent again has its effect once, and the same answer.

The key's row is written in the transaction of the change: either both exist or neither does. A
second request with the key waits at the row until the first has ended.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import Response

from api.errors import AnswerNotKept, ApiError, IdempotencyKeyReused
from tensorguard.services.people.access import Caller
from tensorguard.store.tables import idempotency_keys

KEPT: Final = timedelta(hours=24)
KEY_PATTERN: Final = r"^[!-~]{1,128}$"
_MAX_ANSWER_BYTES: Final = 64 * 1024
_NOT_KEPT: Final = b""
_KEY: Final = re.compile(KEY_PATTERN)


class BadIdempotencyKey(ApiError):
    """The header is not usable as a key."""

    code = "bad-idempotency-key"
    hint = "Use 1 to 128 visible ASCII characters, for example a random UUID."


class _Answer(msgspec.Struct, frozen=True):
    headers: dict[str, str]
    body: bytes


async def once(
    request: Request,
    session: AsyncSession,
    endpoint: Callable[[Request], Awaitable[Response]],
    *,
    replayable: bool,
    now: datetime,
) -> Response:
    """Return the endpoint's answer, or the one that it gave to the same request before.

    Raises: IdempotencyKeyReused, AnswerNotKept, BadIdempotencyKey, and what the endpoint raises.
    """
    key = request.headers.get("idempotency-key")
    caller = request.state.caller
    if key is None or request.method != "POST" or not isinstance(caller, Caller):
        return await endpoint(request)
    if _KEY.fullmatch(key) is None:
        raise BadIdempotencyKey(
            "the Idempotency-Key header is empty, too long or not visible ASCII"
        )
    digest = await _digest(request)
    known = await _reserve(session, caller.actor_key, key, digest, now)
    if known is not None:
        return _again(known, digest)
    response = await endpoint(request)
    if response.status_code < 400:
        await _keep(session, caller.actor_key, key, response, replayable=replayable)
    else:
        await _free(session, caller.actor_key, key)  # answered, not raised: the rest is committed
    return response


async def _digest(request: Request) -> bytes:
    head = f"{request.method}\n{request.url.path}\n{request.url.query}\n".encode()
    return hashlib.sha256(head + await request.body()).digest()


async def _reserve(
    session: AsyncSession, actor: str, key: str, digest: bytes, now: datetime
) -> sa.RowMapping | None:
    """Take the key for this request, or return the row of the request that has it."""
    table = idempotency_keys
    mine = table.c.actor == actor
    await session.execute(sa.delete(table).where(mine, table.c.created_at < now - KEPT))
    statement = insert(table).values(
        actor=actor,
        key=key,
        request_sha256=digest,
        status=0,
        response=_NOT_KEPT,
        created_at=now,
    )
    taken = await session.execute(statement.on_conflict_do_nothing().returning(table.c.key))
    if taken.first() is not None:
        return None
    found = await session.execute(sa.select(table).where(mine, table.c.key == key))
    return found.mappings().one()


def _again(row: sa.RowMapping, digest: bytes) -> Response:
    if row["request_sha256"] != digest:
        raise IdempotencyKeyReused("this Idempotency-Key belongs to another request")
    if row["response"] == _NOT_KEPT:
        raise AnswerNotKept("this request was done before, and its answer is not stored")
    answer = msgspec.msgpack.decode(row["response"], type=_Answer)
    headers = {**answer.headers, "Idempotency-Replayed": "true"}
    return Response(answer.body, status_code=row["status"], headers=headers)


async def _keep(
    session: AsyncSession, actor: str, key: str, response: Response, *, replayable: bool
) -> None:
    table = idempotency_keys
    stored = _NOT_KEPT
    if replayable and len(response.body) <= _MAX_ANSWER_BYTES:
        headers = {
            name: value
            for name, value in response.headers.items()
            if name in ("content-type", "etag", "location")
        }
        stored = msgspec.msgpack.encode(_Answer(headers, bytes(response.body)))
    await session.execute(
        sa.update(table)
        .where(table.c.actor == actor, table.c.key == key)
        .values(status=response.status_code, response=stored)
    )


async def _free(session: AsyncSession, actor: str, key: str) -> None:
    table = idempotency_keys
    await session.execute(sa.delete(table).where(table.c.actor == actor, table.c.key == key))
