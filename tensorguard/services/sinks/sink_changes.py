"""What people change about sinks; every change and its event are one transaction."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import (
    SinkChanged,
    SinkCreated,
    SinkDeleted,
    SinkPaused,
    SinkReplayed,
    SinkResumed,
    SinkSecretRotated,
    SinkTested,
)
from tensorguard.services.evidence.tree_queries import get_epoch
from tensorguard.services.sinks.sink_clients import (
    PURPOSE,
    Outside,
    open_sink_secrets,
    owner_of,
    send_test,
    store_sink_secret,
)
from tensorguard.services.sinks.sink_configs import (
    FileConfig,
    SinkConfig,
    check_secret,
    has_secret,
    parse_config,
)
from tensorguard.services.sinks.sink_errors import (
    SinkExists,
    SinkFileTaken,
    SinkInvalid,
    SinkKindFixed,
    SinkPlaceInvalid,
    SinkStateConflict,
    TooManySinks,
)
from tensorguard.services.sinks.sinks import MAX_SINKS, Sink, get_sink, list_epoch_sizes
from tensorguard.services.text import check_line
from tensorguard.siem.answer import Answer
from tensorguard.siem.errors import BadSink
from tensorguard.store.ids import new_id
from tensorguard.store.tables import secrets as secret_rows
from tensorguard.store.tables import sink_dead_letters, sinks
from tensorguard.vault.provider import KeyProvider

MAX_NAME: Final = 80
OVERLAP: Final = timedelta(hours=24)
MAX_OVERLAP: Final = timedelta(days=7)
_LOCK: Final = 7290431
_CALM: Final[Mapping[str, Any]] = {
    "failures": 0,
    "trouble_code": None,
    "trouble_reason": None,
    "trouble_since": None,
    "retry_at": None,
    "spell_told": False,
}


async def create_sink(
    session: AsyncSession,
    kek: KeyProvider,
    *,
    name: str,
    config: SinkConfig,
    secret: str | None,
    private_fields: bool = False,
    from_beginning: bool = False,
    by: Actor,
    now: datetime,
) -> Sink:
    """Send entries to a destination: all that there are, or those from now on.

    Raises: Invalid, SinkInvalid, SinkExists, SinkFileTaken, TooManySinks, VaultError.
    """
    check_line("the name", name, limit=MAX_NAME)
    check_secret(config.kind, secret)
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    await _check_name(session, name, None)
    await _check_file(session, config, None)
    count = (await session.execute(sa.select(sa.func.count()).select_from(sinks))).scalar_one()
    if count >= MAX_SINKS:
        raise TooManySinks(f"there are {MAX_SINKS} sinks already")
    sink_id, epoch = new_id(), await get_epoch(session)
    place = (1, 0) if from_beginning else (epoch, (await list_epoch_sizes(session))[epoch])
    values = {
        "id": sink_id,
        "name": name,
        "kind": config.kind,
        "config": config.model_dump(),
        "private_fields": private_fields,
        "secret_version": 0 if secret is None else 1,
        "epoch": place[0],
        "next_index": place[1],
        "created_at": now,
        "created_by": by.id,
        "updated_at": now,
    }
    await session.execute(sa.insert(sinks).values(values))
    if secret is not None:
        await store_sink_secret(session, kek, sink_id, 1, secret, now=now)
    event = SinkCreated(
        by=by,
        sink_id=sink_id,
        kind=config.kind,
        private_fields=private_fields,
        epoch=place[0],
        next_index=place[1],
        config=_told(name, config.model_dump()),
    )
    await ledger.record(session, event, now=now)
    return await get_sink(session, sink_id)


async def change_sink(
    session: AsyncSession,
    sink_id: UUID,
    *,
    name: str | None = None,
    config: SinkConfig | None = None,
    private_fields: bool | None = None,
    by: Actor,
    now: datetime,
) -> Sink:
    """Change what is given; it goes on where it was. Nothing given, or the same, changes nothing.

    Raises: SinkNotFound, Invalid, SinkInvalid, SinkKindFixed, SinkExists, SinkFileTaken.
    """
    if isinstance(config, FileConfig):  # of two at once one waits, as where one is created
        await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    sink = await get_sink(session, sink_id, lock=True)
    if name is not None:
        check_line("the name", name, limit=MAX_NAME)
    if config is not None and config.kind != sink.kind:
        raise SinkKindFixed(f"the sink is of kind {sink.kind}")
    given: dict[str, Any] = {
        "name": sink.name if name is None else name,
        "config": sink.config if config is None else config.model_dump(),
        "private_fields": sink.private_fields if private_fields is None else private_fields,
    }
    changed = [field for field, value in given.items() if value != getattr(sink, field)]
    if not changed:
        return sink
    if "name" in changed:
        await _check_name(session, given["name"], sink_id)
    if config is not None and "config" in changed:
        await _check_file(session, config, sink_id)
    await _update(session, sink, given, now=now)
    event = SinkChanged(
        by=by,
        sink_id=sink_id,
        changed=changed,
        private_fields=given["private_fields"],
        before=_told(sink.name, sink.config),
        after=_told(given["name"], given["config"]),
    )
    await ledger.record(session, event, now=now)
    return await get_sink(session, sink_id)


async def delete_sink(session: AsyncSession, sink_id: UUID, *, by: Actor, now: datetime) -> None:
    """Send nothing there any more; its secrets and dead letters are gone. Raises: SinkNotFound."""
    sink = await get_sink(session, sink_id, lock=True)
    count = sa.select(sa.func.count()).select_from(sink_dead_letters)
    letters = await session.execute(count.where(sink_dead_letters.c.sink_id == sink_id))
    await session.execute(sa.delete(sinks).where(sinks.c.id == sink_id))
    await _forget_secrets(session, sink, below=sink.secret_version + 1)
    event = SinkDeleted(
        by=by,
        sink_id=sink_id,
        kind=sink.kind,
        epoch=sink.epoch,
        next_index=sink.next_index,
        dead_letters=letters.scalar_one(),
    )
    await ledger.record(session, event, now=now)


async def pause_sink(session: AsyncSession, sink_id: UUID, *, by: Actor, now: datetime) -> Sink:
    """Let entries wait until it is resumed. Raises: SinkNotFound, SinkStateConflict."""
    sink = await get_sink(session, sink_id, lock=True)
    if sink.state == "paused":
        raise SinkStateConflict("the sink is paused already")
    await _update(session, sink, {**_CALM, "state": "paused"}, now=now)
    event = SinkPaused(by=by, sink_id=sink_id, epoch=sink.epoch, next_index=sink.next_index)
    await ledger.record(session, event, now=now)
    return await get_sink(session, sink_id)


async def resume_sink(session: AsyncSession, sink_id: UUID, *, by: Actor, now: datetime) -> Sink:
    """Go on where it was, at once: also where it is active and waits to try again.

    Raises: SinkNotFound, SinkStateConflict.
    """
    sink = await get_sink(session, sink_id, lock=True)
    if sink.state == "active" and sink.trouble_code is None:
        raise SinkStateConflict("the sink is active already")
    # One that fails still fails until it has succeeded: only the wait ends.
    calm = {"retry_at": None} if sink.state == "active" else _CALM
    await _update(session, sink, {**calm, "state": "active"}, now=now)
    event = SinkResumed(by=by, sink_id=sink_id, epoch=sink.epoch, next_index=sink.next_index)
    await ledger.record(session, event, now=now)
    return await get_sink(session, sink_id)


async def replay_sink(
    session: AsyncSession,
    sink_id: UUID,
    *,
    next_index: int,
    epoch: int | None = None,
    by: Actor,
    now: datetime,
) -> Sink:
    """Send again from an entry on, or leave out what stands before it; present epoch unless told.

    Raises: SinkNotFound, SinkPlaceInvalid.
    """
    sink = await get_sink(session, sink_id, lock=True)
    wanted = await get_epoch(session) if epoch is None else epoch
    size = (await list_epoch_sizes(session)).get(wanted)
    if size is None or not 0 <= next_index <= size:
        known = "there is no such epoch" if size is None else f"it has {size:,} entries"
        raise SinkPlaceInvalid(f"epoch {wanted} has no place {next_index}: {known}")
    await _update(session, sink, {"epoch": wanted, "next_index": next_index}, now=now)
    event = SinkReplayed(
        by=by,
        sink_id=sink_id,
        epoch=wanted,
        next_index=next_index,
        epoch_before=sink.epoch,
        next_index_before=sink.next_index,
    )
    await ledger.record(session, event, now=now)
    return await get_sink(session, sink_id)


async def rotate_secret(
    session: AsyncSession,
    kek: KeyProvider,
    sink_id: UUID,
    *,
    secret: str,
    overlap: timedelta = OVERLAP,
    by: Actor,
    now: datetime,
) -> Sink:
    """Use another secret from now on; a webhook is signed with the one before too, for a while.

    Raises: SinkNotFound, SinkInvalid, VaultError.
    """
    sink = await get_sink(session, sink_id, lock=True)
    check_secret(sink.kind, secret)
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise SinkInvalid(f"both secrets count for {MAX_OVERLAP.days} days at most")
    version = sink.secret_version + 1
    until = now + overlap if sink.kind == "webhook" and overlap else None
    await store_sink_secret(session, kek, sink_id, version, secret, now=now)
    await _forget_secrets(session, sink, below=version - 1 if until else version)
    await _update(session, sink, {"secret_version": version, "previous_until": until}, now=now)
    event = SinkSecretRotated(by=by, sink_id=sink_id, secret_version=version, previous_until=until)
    await ledger.record(session, event, now=now)
    return await get_sink(session, sink_id)


async def test_sink(
    session: AsyncSession,
    kek: KeyProvider,
    outside: Outside,
    sink_id: UUID,
    *,
    by: Actor,
    now: datetime,
) -> Answer:
    """Send one labelled event to a stored sink. Raises: SinkNotFound, SinkInvalid, VaultError."""
    sink = await get_sink(session, sink_id)
    opened = await open_sink_secrets(session, kek, sink, now=now)
    config = parse_config(sink.config)
    answer = await _send_test(config, opened, outside, sink_id, now)
    event = _tested(sink.kind, answer, by, sink_id)
    await ledger.record(session, event, now=now)
    return answer


async def test_config(
    session: AsyncSession,
    outside: Outside,
    *,
    config: SinkConfig,
    secret: str | None,
    by: Actor,
    now: datetime,
) -> Answer:
    """Send one labelled event by a configuration that is not stored. Raises: SinkInvalid."""
    check_secret(config.kind, secret)
    given = [secret] if secret is not None and has_secret(config.kind) else []
    answer = await _send_test(config, given, outside, new_id(), now)
    await ledger.record(session, _tested(config.kind, answer, by, None), now=now)
    return answer


async def _send_test(
    config: SinkConfig, secrets: list[str], outside: Outside, sink_id: UUID, now: datetime
) -> Answer:
    try:
        return await send_test(config, secrets, outside, sink_id=sink_id, now=now)
    except BadSink as error:
        raise SinkInvalid(error.message, hint=error.hint) from None


def _tested(kind: str, answer: Answer, by: Actor, sink_id: UUID | None) -> SinkTested:
    return SinkTested(
        by=by,
        sink_id=sink_id,
        kind=kind,
        accepted=answer.is_accepted,
        code=answer.code,
        status=answer.status,
    )


async def _check_name(session: AsyncSession, name: str, sink_id: UUID | None) -> None:
    query = sa.select(sinks.c.id).where(sinks.c.name == name)
    found = (await session.execute(query)).scalar()
    if found is not None and found != sink_id:
        raise SinkExists(f"a sink is called {name!r} already")


async def _check_file(session: AsyncSession, config: SinkConfig, sink_id: UUID | None) -> None:
    """Two cursors over one file would make a mess of it that nobody could sort out."""
    if not isinstance(config, FileConfig):
        return
    query = sa.select(sinks.c.id, sinks.c.name).where(
        sinks.c.kind == config.kind, sinks.c.config["file_name"].astext == config.file_name
    )
    for found in await session.execute(query):
        if found.id != sink_id:
            raise SinkFileTaken(f"the sink {found.name!r} writes to {config.file_name}")


async def _update(
    session: AsyncSession, sink: Sink, values: Mapping[str, Any], *, now: datetime
) -> None:
    changed = {**values, "revision": sink.revision + 1, "updated_at": now}
    await session.execute(sa.update(sinks).where(sinks.c.id == sink.id).values(changed))


async def _forget_secrets(session: AsyncSession, sink: Sink, *, below: int) -> None:
    ids = [f"{PURPOSE}:{owner_of(sink.id, version)}" for version in range(max(0, below - 3), below)]
    await session.execute(sa.delete(secret_rows).where(secret_rows.c.id.in_(ids)))


def _told(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger keeps in private: without certificates, which are long and public."""
    return {"name": name} | {key: value for key, value in config.items() if key != "ca_pem"}
