"""Private fields: in the ledger they are noise, the vault opens them, erasing ends that."""

import json
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import select

from tensorguard.ledger.private import BadPrivate
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.evidence.events import UserCreated
from tensorguard.services.evidence.private_fields import (
    NothingToErase,
    ensure_privacy_key,
    erase_subject,
    read_private,
)
from tensorguard.store.engine import SessionMaker
from tensorguard.store.tables import ledger_events
from tensorguard.vault.local import LocalKeyProvider
from tests.integration.ledger.builders import now
from tests.postgres import Database


@pytest.fixture
def kek(tmp_path: Path) -> LocalKeyProvider:
    return LocalKeyProvider.open_or_create(tmp_path / "kek")


def people(count: int) -> Sequence[UserCreated]:
    return [
        UserCreated(by=SYSTEM, user_id=uuid4(), role="viewer", email=f"p{n}@example.org", name="P")
        for n in range(count)
    ]


async def test_private_fields_open_with_the_vault_until_their_subject_is_erased(
    sessions: SessionMaker, kek: LocalKeyProvider
) -> None:
    one, two = people(2)
    async with sessions.begin() as session:
        assert await ensure_privacy_key(session, kek, now=now())
        assert not await ensure_privacy_key(session, kek, now=now())
        ids = await ledger.record_many(session, [one, two], now=now())
    async with sessions.begin() as session:
        query = select(ledger_events.c.entry).where(ledger_events.c.id.in_(ids))
        for exact in (await session.execute(query)).scalars():
            assert b"example.org" not in exact
            assert set(json.loads(exact)["private"]) == {"kid", "nonce", "ct"}
            assert json.loads(exact)["details"] == {"role": "viewer"}
        opened = {found.id: found.fields for found in await read_private(session, kek, ids)}
        assert opened[ids[0]] == {"email": "p0@example.org", "name": "P"}
        assert await erase_subject(session, "user", str(one.user_id), by=SYSTEM, now=now()) == 1
        opened = {found.id: found.fields for found in await read_private(session, kek, ids)}
        assert opened == {ids[0]: None, ids[1]: {"email": "p1@example.org", "name": "P"}}
        with pytest.raises(NothingToErase):
            await erase_subject(session, "user", str(one.user_id), by=SYSTEM, now=now())
        erased = select(ledger_events.c.subject_id).where(
            ledger_events.c.type == "ledger.subject-erased"
        )
        assert list((await session.execute(erased)).scalars()) == [str(one.user_id)]


async def test_a_key_that_was_put_under_another_subject_does_not_open(
    sessions: SessionMaker, kek: LocalKeyProvider, fresh_database: Database
) -> None:
    async with sessions.begin() as session:
        await ensure_privacy_key(session, kek, now=now())
        ids = await ledger.record_many(session, people(1), now=now())
    with psycopg.connect(fresh_database.superuser_url) as connection:
        connection.execute("UPDATE subject_keys SET subject_id = 'another'")
    async with sessions() as session:
        with pytest.raises(BadPrivate):
            await read_private(session, kek, ids)


async def test_without_a_privacy_key_an_entry_does_without_them(sessions: SessionMaker) -> None:
    async with sessions.begin() as session:
        (id,) = await ledger.record_many(session, people(1), now=now())
        query = select(ledger_events.c.entry).where(ledger_events.c.id == id)
        assert b"example.org" not in (await session.execute(query)).scalar_one()
