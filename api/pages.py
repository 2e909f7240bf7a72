"""Pages of a list: a limit, an opaque cursor, and where the next page starts."""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from api.errors import BadCursor

MAX_LIMIT = 500
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items at most.")]
DEFAULT_LIMIT = 50
Cursor = Annotated[
    str | None, Query(max_length=1024, description="`next_cursor` of the page before.")
]
Item = TypeVar("Item")
Row = TypeVar("Row")
Key = TypeVar("Key")


class Page(BaseModel, Generic[Item]):
    """One page; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None


def encode_cursor(*values: str | int) -> str:
    """Return the sort key of a page's last row as an opaque string."""
    text = json.dumps(values, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def decode_cursor(cursor: str | None, parse: Callable[[list[Any]], Key]) -> Key | None:
    """Return what `parse` makes of a cursor's values; None where the first page is asked for.

    Raises: BadCursor, also when `parse` raises ValueError, TypeError or IndexError.
    """
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = json.loads(raw)
        if not isinstance(values, list):
            raise TypeError("not a list")
        if any(isinstance(value, str) and not _is_storable(value) for value in values):
            raise ValueError("not text")
        return parse(values)
    except (ValueError, TypeError, IndexError, RecursionError):
        raise BadCursor("the cursor is damaged or belongs to another list") from None


def _is_storable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def page_of(
    rows: Sequence[Row],
    limit: int,
    *,
    view: Callable[[Row], Item],
    key: Callable[[Row], tuple[str | int, ...]],
) -> Page[Item]:
    """Return a page of `limit` items from `limit + 1` rows: the last one tells of more."""
    more = len(rows) > limit
    shown = rows[:limit]
    return Page(
        items=[view(row) for row in shown],
        next_cursor=encode_cursor(*key(shown[-1])) if more else None,
    )
