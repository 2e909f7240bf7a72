"""Watches the transactions of routes: one that changes data without an event is caught."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

SILENT = "/api/v1/silent"  # the route that the test of this watch makes up
# Not data of the platform: what is derived from it, or says when somebody was here.
NOT_DATA = frozenset(
    {
        "stream_events",
        "idempotency_keys",
        "sessions",
        "ledger_unsequenced",
        "subject_keys",
        "package_uploads",  # bytes on their way: what becomes of them is an event
    }
)
_WRITE = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+([a-z_]+)\b(?!\s+OF\b)")
_NOT_A_TABLE = frozenset({"set", "of", "skip", "nowait"})


@contextmanager
def watching_routes() -> Iterator[list[str]]:
    """Yield a list that gets a line for each route that commits changes and no event."""
    found: list[str] = []
    watched: WeakKeyDictionary[sa.Connection, Session] = WeakKeyDictionary()
    written: WeakKeyDictionary[Session, set[str]] = WeakKeyDictionary()

    def began(session: Session, _transaction: object, connection: sa.Connection) -> None:
        if "route" in session.info:
            watched[connection] = session
            written[session] = set()

    def ran(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        session = watched.get(connection)
        if session is not None and cursor.rowcount != 0:
            tables = set(_WRITE.findall(statement)) - _NOT_A_TABLE
            written.setdefault(session, set()).update(tables)

    def committed(session: Session) -> None:
        tables = written.pop(session, set())
        if tables - NOT_DATA and "ledger_events" not in tables:
            found.append(f"{session.info['route']} changed {sorted(tables - NOT_DATA)}")

    listeners: list[tuple[Any, str, Any]] = [
        (Session, "after_begin", began),
        (sa.Engine, "after_cursor_execute", ran),
        (Session, "before_commit", committed),
    ]
    for target, name, listener in listeners:
        event.listen(target, name, listener)
    try:
        yield found
    finally:
        for target, name, listener in listeners:
            event.remove(target, name, listener)
