"""Entries: the exact bytes, and what happens to details that do not fit."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.ledger.entry import MAX_ENTRY_BYTES, Actor, Entry, Subject, format_time
from tensorguard.ledger.errors import BadEntry

AT = datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC)
ID = UUID("01900000-0000-7000-8000-000000000001")


def entry(details: dict[str, Any], **fields: Any) -> Entry:
    known: dict[str, Any] = {
        "id": ID,
        "time": AT,
        "type": "fleet.created",
        "actor": Actor("user", "u1"),
        "subject": Subject("fleet", "hospital-a"),
        "fleet": "hospital-a",
        "outcome": "success",
    }
    return Entry(**(known | fields), details=details)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_an_entry_is_written_byte_for_byte_as_rfc_8785_says() -> None:
    written = entry({"z": [1, True, None], "ä": 'q"\n', "a": {"y": -1, "x": 2**53 - 1}}).to_bytes()
    assert written.decode() == (
        '{"actor":{"id":"u1","kind":"user"},"details":{"a":{"x":9007199254740991,"y":-1},'
        '"z":[1,true,null],"ä":"q\\"\\n"},"fleet":"hospital-a",'
        '"id":"01900000-0000-7000-8000-000000000001","outcome":"success",'
        '"subject":{"id":"hospital-a","kind":"fleet"},"time":"2026-03-04T05:06:07.000008Z",'
        '"type":"fleet.created"}'
    )


@pytest.mark.parametrize(
    "value", [1.5, 2**53, -(2**53), "\ud800", {"\udfff": 1}, nested(7), [[[[[[[]]]]]]]]
)
def test_details_that_json_cannot_hold_exactly_are_kept_raw(value: Any) -> None:
    details = json.loads(entry({"value": value}).to_bytes())["details"]
    assert set(details) == {"raw"}
    assert json.loads(base64.b64decode(details["raw"])) == {"value": value}


def test_the_deepest_entry_that_is_allowed_stays_legible() -> None:
    assert json.loads(entry(nested(7)).to_bytes())["details"] == nested(7)


def test_details_of_more_than_64_kib_are_cut_and_say_so() -> None:
    details = {"text": "ü" * MAX_ENTRY_BYTES}
    written = entry(details).to_bytes()
    assert len(written) <= MAX_ENTRY_BYTES
    kept = json.loads(written)["details"]
    original = json.dumps(details).encode()
    assert original.startswith(base64.b64decode(kept["raw"]))
    assert kept["raw_size_bytes"] == len(original)
    assert kept["raw_sha256"] == hashlib.sha256(original).hexdigest()


def test_a_field_outside_the_details_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadEntry):
        entry({}, subject=Subject("fleet", "\ud800")).to_bytes()
    with pytest.raises(BadEntry):
        entry({}, subject=Subject("fleet", "x" * MAX_ENTRY_BYTES)).to_bytes()


def test_a_time_is_utc_with_six_digits_and_never_naive() -> None:
    east = datetime(2026, 3, 4, 7, 6, 7, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(east) == "2026-03-04T05:06:07.000000Z"
    with pytest.raises(BadEntry):
        format_time(datetime(2026, 3, 4))  # noqa: DTZ001 - a naive time is what is tested


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_whatever_a_device_sends_is_written_and_can_be_read_back(details: dict[str, Any]) -> None:
    written = entry(details).to_bytes()
    assert len(written) <= MAX_ENTRY_BYTES
    kept = json.loads(written)["details"]
    if kept != details or "raw" in kept:
        assert json.loads(base64.b64decode(kept["raw"])) == details


# Of every JSON type within what an entry holds exactly; ASCII often, which is written another way.
exact = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="ascii")) | st.text(), exact, max_size=4))
def test_whatever_is_written_is_canonical(details: dict[str, Any]) -> None:
    written = entry(details).to_bytes()
    assert written == rfc8785.dumps(json.loads(written))
