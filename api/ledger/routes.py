"""`/api/v1/ledger`: entries, the signed checkpoint, its key, proofs, and what contradicts them."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Query
from fastapi.responses import PlainTextResponse, StreamingResponse

from api.access import Requires
from api.ledger.filters import End, Epoch, Filter, Index
from api.ledger.views import (
    ConsistencyProofView,
    CountView,
    EntryView,
    ForkView,
    InclusionProofView,
    entry_view,
    fork_view,
)
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, encode_cursor
from api.routing import Context, Now, Session, new_router
from tensorguard.ledger.checkpoint import ledger_origin
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.exporting import ExportRequest, export_compressed
from tensorguard.services.evidence.ledger_events import LedgerExported
from tensorguard.services.evidence.ledger_queries import MOST_COUNTED
from tensorguard.services.evidence.ledger_queries import count_entries as count_ledger_entries
from tensorguard.services.evidence.ledger_queries import list_entries as list_ledger_entries
from tensorguard.services.evidence.tree_queries import (
    get_consistency_proof,
    get_epoch,
    get_inclusion_proof,
    get_latest_checkpoint,
    list_verifier_keys,
)
from tensorguard.services.evidence.witnesses import list_forks as list_ledger_forks
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.names import find_names

router = new_router("/api/v1/ledger", "ledger")
Reader = Annotated[Caller, Requires(Permission.LEDGER_READ)]
Size = Annotated[int, Query(ge=1, lt=2**53)]


@router.get("/entries")
async def list_entries(
    caller: Reader,
    session: Session,
    only: Filter,
    epoch: Epoch = None,
    start: Index = 0,
    end: End = None,
    order: Annotated[Literal["asc", "desc"], Query(description="`desc`: newest first.")] = "asc",
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[EntryView]:
    """List sequenced entries with start ≤ leaf index < end, by rising leaf index unless told."""
    reached = decode_cursor(cursor, lambda values: _index(values[0]))
    newest_first = order == "desc"
    if reached is not None:
        start, end = (start, reached) if newest_first else (reached, end)
    page = await list_ledger_entries(
        session,
        epoch=epoch,
        start=start,
        end=end,
        only=only,
        newest_first=newest_first,
        limit=limit,
    )
    goes_on = page.next_end if newest_first else page.next_start
    # Whoever may read the ledger may know who acted, and upon what.
    subjects = {(entry.subject_kind, entry.subject_id) for entry in page.items}
    actors = {(entry.actor_kind, entry.actor_id) for entry in page.items}
    names = await find_names(session, subjects | actors)
    return Page(
        items=[entry_view(entry, names) for entry in page.items],
        next_cursor=None if goes_on is None else encode_cursor(goes_on),
    )


@router.get("/count")
async def count_entries(
    caller: Reader,
    session: Session,
    only: Filter,
    epoch: Epoch = None,
    start: Index = 0,
    end: End = None,
) -> CountView:
    """Count the entries that a list of `/entries` would hold, up to ten thousand."""
    found = await count_ledger_entries(session, epoch=epoch, start=start, end=end, only=only)
    return CountView(count=min(found, MOST_COUNTED), is_exact=found <= MOST_COUNTED)


@router.get("/checkpoint", response_class=PlainTextResponse)
async def get_checkpoint(caller: Reader, session: Session, epoch: Epoch = None) -> str:
    """Return the newest checkpoint as a C2SP signed note."""
    return (await get_latest_checkpoint(session, epoch)).note


@router.get("/key", response_class=PlainTextResponse)
async def get_key(caller: Reader, context: Context, session: Session) -> str:
    """Return the keys that verify checkpoints, one a line, the newest first."""
    origin = ledger_origin(context.keyring.trust_domain, await get_epoch(session))
    return "".join(f"{key}\n" for key in await list_verifier_keys(session, origin))


@router.get("/proof/inclusion")
async def get_inclusion(
    caller: Reader, session: Session, index: Index, size: Size, epoch: Epoch = None
) -> InclusionProofView:
    """Prove that an entry stands in the tree of a size (RFC 9162 §2.1.3)."""
    wanted = await get_epoch(session) if epoch is None else epoch
    proof = await get_inclusion_proof(session, wanted, index, size)
    return InclusionProofView(
        leaf_index=proof.leaf_index,
        tree_size=proof.tree_size,
        root_hash=proof.root_hash.hex(),
        audit_path=[item.hex() for item in proof.audit_path],
    )


@router.get("/proof/consistency")
async def get_consistency(
    caller: Reader, session: Session, first: Size, second: Size, epoch: Epoch = None
) -> ConsistencyProofView:
    """Prove that the tree of one size extends that of another (RFC 9162 §2.1.4)."""
    wanted = await get_epoch(session) if epoch is None else epoch
    proof = await get_consistency_proof(session, wanted, first, second)
    path = [item.hex() for item in proof]
    return ConsistencyProofView(first=first, second=second, consistency_path=path)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zstd": {}}}},
)
async def export(
    caller: Reader,
    context: Context,
    session: Session,
    now: Now,
    only: Filter,
    epoch: Epoch = None,
    start: Index = 0,
    end: End = None,
    since: Annotated[
        int | None,
        Query(ge=1, lt=2**53, description="Prove consistency with the tree of this size, too."),
    ] = None,
) -> StreamingResponse:
    """Export entries with the signed checkpoint and proofs: zstd NDJSON for `ledger verify`."""
    signed = await get_latest_checkpoint(session, epoch)
    if since is not None:  # now, while there still is an answer to refuse with
        await get_consistency_proof(session, signed.epoch, since, signed.tree_size)
    request = ExportRequest(
        epoch=signed.epoch,
        start=start,
        end=end,
        only=only,
        since=since,
    )
    last = signed.tree_size if end is None else min(end, signed.tree_size)
    exported = LedgerExported(
        by=caller.actor,
        epoch=signed.epoch,
        start=min(start, last),
        end=last,
        filtered=request.is_filtered,
    )
    await ledger.record(session, exported, now=now)

    async def stream() -> AsyncIterator[bytes]:
        async with context.sessions() as reading:
            async for chunk in context.exports.each(export_compressed(reading, request)):
                yield chunk

    name = f"ledger-{signed.epoch}-{min(start, last)}-{last}.ndjson.zst"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(stream(), media_type="application/zstd", headers=headers)


@router.get("/forks")
async def list_forks(caller: Reader, session: Session) -> list[ForkView]:
    """List checkpoints that devices have seen and that this ledger cannot extend: alarms."""
    return [fork_view(fork) for fork in await list_ledger_forks(session)]


def _index(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError("not an index")
    return value
