"""Every event that the ledger can hold, and the page that says so: docs/events.md.

python -m tensorguard.services.evidence.catalogue > docs/events.md
"""

import inspect
import types
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

from tensorguard.protocol.messages import EventType
from tensorguard.services.evidence import events
from tensorguard.services.evidence.event import Event

_HEAD = """\
# Events

What the Evidence Locker writes down: one type each, with the fields of its `details`. This page is
made from the code (`make event-docs`); `make check` compares the two.

Every entry is canonical JSON (RFC 8785) of `id`, `time`, `type`, `actor` `{kind, id}`, `subject`
`{kind, id}`, `fleet`, `outcome` (`success`, `failure` or `denied`) and `details`. Entries hold ids
and never names, addresses or e-mail addresses: fields that are marked *private* stand encrypted in
`private`, under a key of the subject that `tensorguard ledger erase` destroys. A field with `?` may
be missing. Details that do not fit JSON exactly stand as base64 in `raw`.
"""
_TABLE = "| type | subject | outcome | details |\n|---|---|---|---|\n"
_NAMES: dict[Any, str] = {
    UUID: "UUID",
    datetime: "time",
    int: "whole number",
    str: "text",
    bytes: "bytes",
    bool: "true or false",
    Any: "any",
    str | bytes: "SHA-256",
}


class EventKind(msgspec.Struct, frozen=True, kw_only=True):
    """One type of event: its name, what it is about, and its fields as `name: type`."""

    type: str
    subject: str
    outcome: str
    what: str
    fields: list[str]


def list_event_types() -> list[type[Event]]:
    """Return every type of event by name; those that only others build on are left out."""
    found = {kind for kind in _walk(Event) if hasattr(kind, "TYPE")}
    return sorted(found, key=lambda kind: kind.TYPE)


def list_reported_types() -> list[str]:
    """Return the types under which the ledger lists what agents report."""
    return sorted(f"agent.reported.{name}" for name in get_args(EventType))


def list_events() -> list[EventKind]:
    """Return the catalogue, by type."""
    return [_describe(kind) for kind in list_event_types()]


def render() -> str:
    """Return the page."""
    parts, area = [_HEAD], ""
    for kind in list_events():
        if (begins := kind.type.partition(".")[0]) != area:
            area = begins
            parts.append(
                f"\n## {area}\n\n| type | subject | outcome | details |\n|---|---|---|---|\n"
            )
        details = "; ".join(kind.fields) or "none"
        what = f" {kind.what}" if kind.what else ""
        row = f"| `{kind.type}`{what} | {kind.subject} | {kind.outcome} | {details} |\n"
        parts.append(row)
    reported = ", ".join(f"`{name}`" for name in get_args(EventType))
    parts.append(
        "\n## What agents report\n\n`agent.reported.<type>`, with the certificate's agent as actor,"
        f" for these types and no other: {reported}.\n"
    )
    return "".join(parts)


def _walk(kind: type[Event]) -> Iterator[type[Event]]:
    for below in kind.__subclasses__():
        yield below
        yield from _walk(below)


def _describe(kind: type[Event]) -> EventKind:
    subject, field = kind.SUBJECT
    hints = get_type_hints(kind, vars(events))
    names = [name for name in kind.__struct_fields__ if name not in ("by", "fleet", field)]
    described = []
    for name in names:
        mark = " (private)" if name in kind.PRIVATE else ""
        described.append(f"`{name}`: {_name(hints[name])}{mark}")
    written = kind.__dict__.get("__doc__") or ""
    what = " ".join(inspect.cleandoc(written).split())
    return EventKind(
        type=f"{kind.TYPE}.<type>" if kind.TYPE == "agent.reported" else kind.TYPE,
        subject=subject,
        outcome=kind.OUTCOME,
        what=what.replace("|", "\\|"),
        fields=described,
    )


def _name(hint: Any) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = [one for one in arguments if one is not type(None)]
        inner = Union[tuple(rest)] if len(rest) > 1 else rest[0]  # noqa: UP007  from a tuple
        plain = "SHA-256" if set(rest) == {str, bytes} else _name(inner) if len(rest) == 1 else ""
        plain = plain or " or ".join(map(_name, rest))
        return f"{plain}?" if len(rest) < len(arguments) else plain
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (list, tuple):
        return f"list of {_name(arguments[0])}"
    if origin is not None:
        return "object"
    return str(getattr(hint, "__name__", hint))


if __name__ == "__main__":
    print(render(), end="")  # the page, for a shell to redirect
