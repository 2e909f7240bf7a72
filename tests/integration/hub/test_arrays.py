"""Array literals: PostgreSQL reads exactly what was meant."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hub import arrays
from tests.postgres import Database

AWKWARD = [
    "",
    " ",
    "NULL",
    "null",
    '"',
    "\\",
    "\\\\",
    '\\"',
    "{",
    "}",
    ",",
    "{,}",
    "a\nb\t",
    "🙂",
    "'",
]
text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
relaxed = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database.app_url) as made:
        await made.execute("SET timezone = 'UTC'")
        yield made
        await made.rollback()


async def read(connection: psycopg.AsyncConnection[Any], literal: str, type_: str) -> list[Any]:
    cursor = await connection.execute(f"SELECT %s::{type_}[]", (literal,), binary=True)
    row = await cursor.fetchone()
    assert row is not None
    return list(row[0])


@given(st.lists(st.none() | text | st.sampled_from(AWKWARD)))
@example(list(AWKWARD))
@relaxed
async def test_any_text_comes_back(
    connection: psycopg.AsyncConnection[Any], values: list[str | None]
) -> None:
    assert await read(connection, arrays.of_text(values), "text") == values


@given(st.lists(st.none() | st.binary()))
@example([b"", b"\x00", b"\\x41", b"NULL"])
@relaxed
async def test_any_bytes_come_back(
    connection: psycopg.AsyncConnection[Any], values: list[bytes | None]
) -> None:
    assert await read(connection, arrays.of_bytes(values), "bytea") == values


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
@relaxed
async def test_any_integer_comes_back(
    connection: psycopg.AsyncConnection[Any], values: list[int | None]
) -> None:
    assert await read(connection, arrays.of_plain(values), "int8") == values


@given(st.lists(st.none() | st.floats(allow_nan=False)))
@relaxed
async def test_any_double_comes_back(
    connection: psycopg.AsyncConnection[Any], values: list[float | None]
) -> None:
    assert await read(connection, arrays.of_plain(values), "float8") == values


@given(
    st.lists(st.none() | st.uuids()),
    st.lists(
        st.none() | st.datetimes(timezones=st.timezones()).filter(lambda at: 1 < at.year < 9999)
    ),
)
@relaxed
async def test_any_uuid_and_any_time_come_back(
    connection: psycopg.AsyncConnection[Any],
    ids: list[UUID | None],
    times: list[datetime | None],
) -> None:
    assert await read(connection, arrays.of_plain(ids), "uuid") == ids
    # Wall time at a zone's change back is said by its offset, which is in the text.
    moments = [None if at is None else at.astimezone(UTC) for at in times]
    assert await read(connection, arrays.of_plain(times), "timestamptz") == moments


async def test_an_empty_array_is_one(connection: psycopg.AsyncConnection[Any]) -> None:
    assert await read(connection, arrays.of_plain([]), "int8") == []
    assert await read(connection, arrays.of_text([]), "text") == []
    assert await read(connection, arrays.of_bytes([]), "bytea") == []
