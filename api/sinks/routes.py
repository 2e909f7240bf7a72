"""`/api/v1/sinks`: destinations of ledger entries. A secret is taken, and never given back."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Header, Response
from pydantic import SecretStr

from api.access import Requires
from api.etags import require_match, revision_etag
from api.limits import KIB, limits
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Context, Now, Session, new_router
from api.sinks.views import (
    SinkChange,
    SinkCreate,
    SinkDeadLetterView,
    SinkLettersReplayed,
    SinkReplay,
    SinkSecret,
    SinkTest,
    SinkTestView,
    SinkView,
    sink_view,
    sink_views,
    test_view,
)
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.sinks import dead_letters, sink_changes
from tensorguard.services.sinks.sinks import get_sink
from tensorguard.services.sinks.sinks import list_sinks as list_all_sinks

router = new_router("/api/v1/sinks", "sinks")
Reader = Annotated[Caller, Requires(Permission.SINKS_READ)]
Writer = Annotated[Caller, Requires(Permission.SINKS_WRITE)]
# A destination may be slow, and its certificates long.
_PATIENT_S = 60.0
_BODY_BYTES = 96 * KIB


@router.get("")
async def list_sinks(caller: Reader, session: Session) -> Page[SinkView]:
    """List every sink by name; they are few."""
    views = await sink_views(session, await list_all_sinks(session))
    return Page(items=views, next_cursor=None)


@router.post("", status_code=201)
@limits(max_body_bytes=_BODY_BYTES)
async def create_sink(
    caller: Writer, context: Context, session: Session, body: SinkCreate, now: Now
) -> SinkView:
    """Send ledger entries to another system, from now on or from the first."""
    sink = await sink_changes.create_sink(
        session,
        context.kek,
        name=body.name,
        config=body.config,
        secret=_plain(body.secret),
        private_fields=body.private_fields,
        from_beginning=body.from_beginning,
        by=caller.actor,
        now=now,
    )
    return await sink_view(session, sink)


@router.post("/test")
@limits(max_body_bytes=_BODY_BYTES, timeout_s=_PATIENT_S, replayable=False)
async def test_configuration(
    caller: Writer, context: Context, session: Session, body: SinkTest, now: Now
) -> SinkTestView:
    """Send one labelled event by a configuration that is not stored, and show the answer."""
    async with context.sink_tests.one():
        answer = await sink_changes.test_config(
            session,
            context.outside,
            config=body.config,
            secret=_plain(body.secret),
            by=caller.actor,
            now=now,
        )
    return test_view(answer)


@router.get("/{sink_id}")
async def get_one_sink(
    caller: Reader, session: Session, sink_id: UUID, response: Response
) -> SinkView:
    """Return one sink; its ETag changes with its configuration, not with its progress."""
    sink = await get_sink(session, sink_id)
    response.headers["ETag"] = revision_etag(sink.revision)
    return await sink_view(session, sink)


@router.patch("/{sink_id}")
@limits(max_body_bytes=_BODY_BYTES)
async def change_sink(
    caller: Writer,
    session: Session,
    sink_id: UUID,
    body: SinkChange,
    response: Response,
    now: Now,
    if_match: Annotated[str | None, Header()] = None,
) -> SinkView:
    """Change a sink; it goes on where it was. Needs If-Match."""
    revision = (await get_sink(session, sink_id, lock=True)).revision
    require_match(if_match, revision_etag(revision))
    sink = await sink_changes.change_sink(
        session,
        sink_id,
        name=body.name,
        config=body.config,
        private_fields=body.private_fields,
        by=caller.actor,
        now=now,
    )
    response.headers["ETag"] = revision_etag(sink.revision)
    return await sink_view(session, sink)


@router.delete("/{sink_id}", status_code=204)
async def delete_sink(caller: Writer, session: Session, sink_id: UUID, now: Now) -> None:
    """Send nothing there any more; its secret and its dead letters are gone."""
    await sink_changes.delete_sink(session, sink_id, by=caller.actor, now=now)


@router.post("/{sink_id}/pause")
async def pause_sink(caller: Writer, session: Session, sink_id: UUID, now: Now) -> SinkView:
    """Let entries wait until it is resumed."""
    sink = await sink_changes.pause_sink(session, sink_id, by=caller.actor, now=now)
    return await sink_view(session, sink)


@router.post("/{sink_id}/resume")
async def resume_sink(caller: Writer, session: Session, sink_id: UUID, now: Now) -> SinkView:
    """Go on where it was; one that fails is tried again at once."""
    sink = await sink_changes.resume_sink(session, sink_id, by=caller.actor, now=now)
    return await sink_view(session, sink)


@router.post("/{sink_id}/test")
@limits(timeout_s=_PATIENT_S, replayable=False)
async def test_sink(
    caller: Writer, context: Context, session: Session, sink_id: UUID, now: Now
) -> SinkTestView:
    """Send one labelled event, and show the answer; its place in the ledger stays."""
    async with context.sink_tests.one():  # its transaction is open as long
        answer = await sink_changes.test_sink(
            session, context.kek, context.outside, sink_id, by=caller.actor, now=now
        )
    return test_view(answer)


@router.post("/{sink_id}/replay")
async def replay_sink(
    caller: Writer, session: Session, sink_id: UUID, body: SinkReplay, now: Now
) -> SinkView:
    """Send again from an entry on."""
    sink = await sink_changes.replay_sink(
        session, sink_id, next_index=body.next_index, epoch=body.epoch, by=caller.actor, now=now
    )
    return await sink_view(session, sink)


@router.post("/{sink_id}/rotate-secret")
@limits(timeout_s=60.0)
async def rotate_sink_secret(
    caller: Writer, context: Context, session: Session, sink_id: UUID, body: SinkSecret, now: Now
) -> SinkView:
    """Use another secret from now on."""
    sink = await sink_changes.rotate_secret(
        session,
        context.kek,
        sink_id,
        secret=body.secret.get_secret_value(),
        overlap=timedelta(hours=body.overlap_hours),
        by=caller.actor,
        now=now,
    )
    return await sink_view(session, sink)


@router.get("/{sink_id}/dead-letters")
async def list_sink_dead_letters(
    caller: Reader,
    session: Session,
    sink_id: UUID,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[SinkDeadLetterView]:
    """List the entries that the destination refused for themselves, the oldest refusal first."""
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    found = await dead_letters.list_dead_letters(session, sink_id, after=after, limit=limit)
    return page_of(
        found,
        limit,
        view=SinkDeadLetterView.model_validate,
        key=lambda letter: (str(letter.id),),
    )


@router.post("/{sink_id}/dead-letters/replay", status_code=202)
async def replay_sink_dead_letters(
    caller: Writer, session: Session, sink_id: UUID, now: Now
) -> SinkLettersReplayed:
    """Send every dead letter once more; those that are taken are gone from the list."""
    count = await dead_letters.replay_dead_letters(session, sink_id, by=caller.actor, now=now)
    return SinkLettersReplayed(count=count)


@router.post("/{sink_id}/dead-letters/{letter_id}/replay", status_code=202)
async def replay_sink_dead_letter(
    caller: Writer, session: Session, sink_id: UUID, letter_id: UUID, now: Now
) -> SinkDeadLetterView:
    """Send one dead letter once more."""
    letter = await dead_letters.replay_dead_letter(
        session, sink_id, letter_id, by=caller.actor, now=now
    )
    return SinkDeadLetterView.model_validate(letter)


@router.delete("/{sink_id}/dead-letters/{letter_id}", status_code=204)
async def discard_sink_dead_letter(
    caller: Writer, session: Session, sink_id: UUID, letter_id: UUID, now: Now
) -> None:
    """Give an entry up for this sink; it stays in the ledger."""
    await dead_letters.discard_dead_letter(session, sink_id, letter_id, by=caller.actor, now=now)


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
