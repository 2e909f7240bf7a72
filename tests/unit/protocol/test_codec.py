"""Payloads: what is right comes through whole, and nothing else comes through."""

import contextlib
import copy
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.protocol import codec
from tensorguard.protocol.errors import BadMessage, MessageTooLarge, ProtocolError
from tensorguard.protocol.messages import Ack, Event, Heartbeat
from tensorguard.protocol.topics import FrontKind, UpKind
from tests.unit.protocol.builders import BOOT_ID, GOOD, SHA256

KINDS = [*UpKind, *FrontKind]
MAX_INTEGER = 2**53 - 1


def payload(kind: UpKind | FrontKind, **changes: Any) -> bytes:
    return json.dumps(copy.deepcopy(GOOD[kind]) | changes).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_survives_decoding_and_encoding(kind: UpKind | FrontKind) -> None:
    message = codec.decode_up(kind, payload(kind))
    again = codec.decode_up(kind, codec.encode(message))
    assert again == message
    stated = {name: value for name, value in GOOD[kind].items() if value is not None}
    assert msgspec.json.decode(codec.encode(message)).keys() >= stated.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_fields_are_ignored(kind: UpKind | FrontKind) -> None:
    with_more = payload(kind, a_field_of_the_future={"x": [1, 2]})
    assert codec.decode_up(kind, with_more) == codec.decode_up(kind, payload(kind))


REQUIRED = [
    (kind, name)
    for kind in KINDS
    for name, required in (
        (field.encode_name, field.required)
        for field in msgspec.structs.fields(type(codec.decode_up(kind, payload(kind))))
    )
    if required
]


@pytest.mark.parametrize(("kind", "name"), REQUIRED)
def test_a_missing_field_is_refused_by_name(kind: UpKind | FrontKind, name: str) -> None:
    body = {key: value for key, value in GOOD[kind].items() if key != name}
    with pytest.raises(BadMessage, match=name):
        codec.decode_up(kind, json.dumps(body).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_up_to_the_limit_is_read_and_one_byte_more_is_not(
    kind: UpKind | FrontKind,
) -> None:
    limits = {UpKind.HEARTBEAT: 8 * 1024, FrontKind.ENROLL: 128 * 1024}
    limit = limits.get(kind, 64 * 1024)
    full = payload(kind).ljust(limit)
    assert codec.decode_up(kind, full) == codec.decode_up(kind, payload(kind))
    with pytest.raises(MessageTooLarge):
        codec.decode_up(kind, full + b" ")


HOSTILE = {
    "nothing": b"",
    "no JSON": b"\x00\x01\x02",
    "null": b"null",
    "an array": b"[]",
    "cut off": b'{"boot_id":',
    "two documents": b"{}{}",
    "invalid UTF-8": b'{"agent_version": "\xff"}',
    "a surrogate as UTF-8": b'{"agent_version": "\xed\xa0\x80"}',
    "deep arrays": b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deep objects": b'{"x":' + b'{"x":' * 5_000 + b"1" + b"}" * 5_001,
    "byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_message_is_refused_as_one(kind: UpKind | FrontKind, hostile: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_up(kind, hostile)


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_protocol_error(
    kind: UpKind | FrontKind, data: bytes
) -> None:
    with contextlib.suppress(ProtocolError):
        codec.decode_up(kind, data)


BAD_HEARTBEATS = {
    "a percentage above 100": ("cpu_percent", "100.1"),
    "a percentage below 0": ("disk_percent", "-0.1"),
    "NaN": ("cpu_percent", "NaN"),
    "Infinity": ("cpu_percent", "Infinity"),
    "a number beyond doubles": ("cpu_percent", "1e999"),
    "a number beyond doubles among metrics": ("metrics", '{"x": 1e999}'),
    "a huge integer": ("seq", "1" * 400),
    "an integer that doubles cannot hold": ("seq", str(MAX_INTEGER + 1)),
    "a negative count": ("boot_count", "-1"),
    "a fraction where a count is due": ("seq", "1.5"),
    "a count as text": ("seq", '"1"'),
    "a boolean as a percentage": ("cpu_percent", "true"),
    "a status out of the list": ("status", '"fine"'),
    "NUL": ("agent_version", '"a\\u0000b"'),
    "a line break at the end": ("agent_version", '"1.0\\n"'),
    "an escape sequence": ("agent_version", '"\\u001b[31m"'),
    "half a surrogate pair": ("agent_version", '"\\ud800"'),
    "a version of 65 characters": ("agent_version", f'"{"x" * 65}"'),
    "a time without a zone": ("sent_at", '"2026-03-01T12:00:00"'),
    "a time as a number": ("sent_at", "1700000000"),
    "a time before the calendar in UTC": ("sent_at", '"0001-01-01T00:00:00+14:00"'),
    "a time after the calendar in UTC": ("sent_at", '"9999-12-31T23:59:59-14:00"'),
    "33 metrics": ("metrics", json.dumps({f"m{i}": i for i in range(33)})),
    "a metric without a name": ("metrics", '{"": 1}'),
    "a metric with NUL in its name": ("metrics", '{"a\\u0000": 1}'),
    "a metric that is text": ("metrics", '{"x": "1"}'),
    "17 accelerators": (
        "accelerators",
        json.dumps([{"name": "g", "util_percent": 1, "memory_percent": 1}] * 17),
    ),
    "a digest in capitals": (
        "package",
        json.dumps({"name": "a", "version": "1", "digest": "AB" * 32}),
    ),
    "a digest with a line break": (
        "package",
        json.dumps({"name": "a", "version": "1", "digest": SHA256 + "\n"}),
    ),
    "half a digest": ("package", json.dumps({"name": "a", "version": "1", "digest": "ab"})),
    "no UUID": ("boot_id", '"boot"'),
}


@pytest.mark.parametrize(("name", "value"), BAD_HEARTBEATS.values(), ids=BAD_HEARTBEATS.keys())
def test_a_heartbeat_that_could_not_be_stored_is_refused(name: str, value: str) -> None:
    body = json.dumps({**GOOD[UpKind.HEARTBEAT], name: "@"}).replace('"@"', value)
    with pytest.raises(BadMessage):
        codec.decode_up(UpKind.HEARTBEAT, body.encode())


def test_the_largest_integer_of_the_protocol_is_kept_exactly() -> None:
    message = codec.decode_up(UpKind.HEARTBEAT, payload(UpKind.HEARTBEAT, seq=MAX_INTEGER))
    assert isinstance(message, Heartbeat)
    assert message.seq == MAX_INTEGER


def test_what_a_heartbeat_leaves_out_has_its_default() -> None:
    needed = ("boot_id", "boot_count", "seq", "sent_at", "agent_version")
    body = {name: GOOD[UpKind.HEARTBEAT][name] for name in needed}
    body |= {f"{part}_percent": 0 for part in ("cpu", "memory", "disk")}
    message = codec.decode_up(UpKind.HEARTBEAT, json.dumps(body).encode())
    assert isinstance(message, Heartbeat)
    assert message.status == "ok"
    assert message.package is None
    assert message.has.desired is None
    assert (message.has.config, message.has.trust) == (0, 0)


@pytest.mark.parametrize("number", [0, -1, MAX_INTEGER + 1, 1.5, "1"])
@pytest.mark.parametrize("field", ["number", "oldest"])
def test_an_event_without_a_usable_number_has_no_header(field: str, number: object) -> None:
    bad = payload(UpKind.EVENT, **{field: number})
    assert codec.find_event_header(bad) is None
    with pytest.raises(BadMessage):
        codec.decode_up(UpKind.EVENT, bad)


@pytest.mark.parametrize(
    "changes",
    [{"type": "agent.bribed"}, {"at": "yesterday"}, {"details": []}, {"details": None}],
    ids=str,
)
def test_an_event_with_a_bad_body_still_shows_its_number(changes: dict[str, Any]) -> None:
    bad = payload(UpKind.EVENT, **changes)
    with pytest.raises(BadMessage):
        codec.decode_up(UpKind.EVENT, bad)
    header = codec.find_event_header(bad)
    assert header is not None
    assert (str(header.log_id), header.number, header.oldest) == (BOOT_ID, 5, 2)


DEEP = b"[" * 5_000 + b"]" * 5_000


@pytest.mark.parametrize(
    "details",
    [
        DEEP,
        b'{"number": 7, "a": ' + DEEP + b', "log_id": "x"}',
        b'["]]", "\\"]", "\\\\", ' + DEEP + b', "[{\\""]',
    ],
    ids=["arrays", "fields of the same names", "brackets in strings"],
)
def test_an_event_nested_deeper_than_any_stack_still_shows_its_number(details: bytes) -> None:
    bad = payload(UpKind.EVENT, details="@").replace(b'"@"', details)
    with pytest.raises(BadMessage):
        codec.decode_up(UpKind.EVENT, bad)
    header = codec.find_event_header(bad)
    assert header is not None
    assert (str(header.log_id), header.number, header.oldest) == (BOOT_ID, 5, 2)


@pytest.mark.parametrize(
    "end",
    [b"", b"]" * 9_000, b'"' + b'\\"' * 20_000, b'"\\'],
    ids=["open arrays", "closed too often", "an open string of quotes", "an open escape"],
)
def test_a_deep_event_that_does_not_end_as_json_does_has_no_header(end: bytes) -> None:
    bad = payload(UpKind.EVENT, details="@").replace(b'"@"}', b"[" * 5_000 + end)
    assert codec.find_event_header(bad) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=20,
    )
)
def test_event_details_come_through_unchanged(value: object) -> None:
    message = codec.decode_up(UpKind.EVENT, payload(UpKind.EVENT, details={"value": value}))
    assert isinstance(message, Event)
    assert message.details == {"value": value}


@given(st.floats(0, 100))
def test_a_percentage_comes_through_unchanged(value: float) -> None:
    message = codec.decode_up(UpKind.HEARTBEAT, payload(UpKind.HEARTBEAT, cpu_percent=value))
    assert isinstance(message, Heartbeat)
    assert math.isclose(message.cpu_percent, value, rel_tol=0, abs_tol=0)


def test_decode_reads_down_messages_and_refuses_others() -> None:
    ack = codec.decode(Ack, f'{{"log_id": "{BOOT_ID}", "through": 3, "new": 1}}')
    assert (str(ack.log_id), ack.through, ack.rejected) == (BOOT_ID, 3, [])
    with pytest.raises(BadMessage, match="Ack"):
        codec.decode(Ack, b'{"through": -1}')


def test_a_refusal_is_short_whatever_was_sent() -> None:
    with pytest.raises(BadMessage) as caught:
        codec.decode_up(UpKind.EVENT, payload(UpKind.EVENT, type="x" * 60_000))
    assert len(caught.value.message) < 400
