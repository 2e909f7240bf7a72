"""Pages of entries that are bounded by their bytes as well: an entry may have 64 KiB."""

from typing import Any

import sqlalchemy as sa


def within_bytes(
    page: sa.Select[Any], *, most_bytes: int, newest_first: bool = False
) -> sa.Select[Any]:
    """Return the beginning of a page, by leaf index: up to the row that reaches `most_bytes`.

    The page has `leaf_index` and `entry`, and a limit; `of_page` is how many rows it has in all.
    """
    rows = page.subquery("page")
    order = rows.c.leaf_index.desc() if newest_first else rows.c.leaf_index.asc()
    before = sa.func.sum(sa.func.coalesce(sa.func.octet_length(rows.c.entry), 0)).over(
        order_by=order, rows=(None, -1)
    )
    sized = sa.select(
        rows, before.label("before"), sa.func.count().over().label("of_page")
    ).subquery("sized")
    last = sized.c.leaf_index
    return (
        sa.select(*(column for column in sized.c if column.name != "before"))
        .where(sa.func.coalesce(sized.c.before, 0) < most_bytes)
        .order_by(last.desc() if newest_first else last.asc())
    )
