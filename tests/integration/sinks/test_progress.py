"""Cursors, epochs, private fields, what the ledger is told, and people who intervene."""

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from tensorguard.services.evidence.epochs import begin_epoch
from tensorguard.services.evidence.private_fields import ensure_privacy_key
from tensorguard.services.sinks import sink_changes
from tensorguard.services.sinks.sink_changes import parse_config
from tensorguard.services.sinks.sink_errors import SinkPlaceInvalid
from tensorguard.store import tables
from tests.integration.sinks.far_end import NAME, HttpsEnd, answers, serving
from tests.integration.sinks.lab import Lab
from tests.integration.sinks.strict_ends import TOKEN, StrictHec, index_of
from tests.postgres import Database


@pytest.fixture
async def hec(lab: Lab) -> AsyncIterator[tuple[StrictHec, HttpsEnd]]:
    strict = StrictHec()
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        yield strict, end


def url_of(end: HttpsEnd) -> str:
    return f"https://{NAME}:{end.port}"


async def test_a_dead_sink_does_not_delay_another(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    dead = await lab.sink("splunk", TOKEN, url=f"https://{NAME}:1", name="dead")
    alive = await lab.sink("splunk", TOKEN, url=url_of(end), name="alive")
    await lab.write(100)
    exports = [lab.export(dead), lab.export(alive)]
    for export in exports:
        await lab.drain(export)
    assert strict.indexes == list(range(102))
    assert ((await lab.get(dead)).next_index, (await lab.get(alive)).next_index) == (0, 102)
    for export in exports:
        await export.close()


async def test_it_is_sent_again_from_any_entry_on(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await lab.sink("splunk", TOKEN, url=url_of(end))
    await lab.write(50)
    export = lab.export(sink)
    await lab.drain(export)
    await lab.change(sink_changes.replay_sink, sink.id, next_index=40)
    await lab.drain(export)
    assert strict.indexes == [*range(51), *range(40, 51)]
    with pytest.raises(SinkPlaceInvalid):
        await lab.change(sink_changes.replay_sink, sink.id, next_index=10_000)
    with pytest.raises(SinkPlaceInvalid):
        await lab.change(sink_changes.replay_sink, sink.id, next_index=0, epoch=2)
    [told] = await lab.told("sink.replayed")
    assert (told["next_index_before"], told["next_index"]) == (51, 40)
    await export.close()


async def test_a_pause_holds_from_the_next_batch_on_and_loses_nothing(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await lab.sink("splunk", TOKEN, url=url_of(end))
    await lab.write(50)
    await lab.change(sink_changes.pause_sink, sink.id)
    export = lab.export(sink)
    assert await lab.drain(export) is None
    assert strict.taken == []
    await lab.change(sink_changes.resume_sink, sink.id)
    await lab.drain(export)
    assert strict.indexes == list(range(51))
    await export.close()


async def test_what_a_person_changes_while_a_batch_is_under_way_holds(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await lab.sink("splunk", TOKEN, url=url_of(end))
    await lab.write(50)
    export = lab.export(sink)
    await lab.drain(export)
    await lab.write(50)

    async def replayed_meanwhile(request, handle):  # type: ignore[no-untyped-def]  # a Trouble
        await lab.change(sink_changes.replay_sink, sink.id, next_index=90)
        return handle(request)

    end.troubles.append(replayed_meanwhile)
    await lab.drain(export)
    assert strict.indexes == [*range(51), *range(51, 101), *range(90, 101)]
    await export.close()


async def test_a_new_epoch_is_gone_on_with_after_the_end_of_the_one_before(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await lab.sink("splunk", TOKEN, url=url_of(end))
    await lab.write(10)
    export = lab.export(sink)
    await lab.drain(export)
    await lab.write(5)
    await lab.change(begin_epoch, reason="restored", last_note=None)
    await lab.sign()
    await lab.write(5)
    await lab.drain(export)
    places = [(one["unmapped"]["integrity"]["epoch"], index_of(one)) for one in strict.taken]
    assert places == [*((1, index) for index in range(16)), *((2, index) for index in range(6))]
    notes = {one["unmapped"]["integrity"]["checkpoint"].split("\n")[0] for one in strict.taken}
    assert notes == {"example.org/ledger/1", "example.org/ledger/2"}
    await export.close()


async def test_private_fields_are_in_clear_only_where_somebody_has_allowed_it(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    async with lab.sessions.begin() as session:
        await ensure_privacy_key(session, lab.kek, now=lab.clock())
    plain = await lab.sink("splunk", TOKEN, url=url_of(end), name="plain")
    open_ = await lab.sink("splunk", TOKEN, url=url_of(end), name="open", private_fields=True)
    await lab.sign()
    for sink, expected in ((plain, False), (open_, True)):
        strict.taken.clear()
        export = lab.export(sink)
        await lab.drain(export)
        created = [one for one in strict.taken if one["metadata"]["event_code"] == "sink.created"]
        shown = [one["unmapped"].get("private") for one in created]
        assert len(shown) == 2
        assert all((one is not None) is expected for one in shown)
        if expected:
            assert [one["config"]["name"] for one in shown] == ["plain", "open"]
        await export.close()


async def test_a_flapping_sink_and_its_own_events_do_not_fill_the_ledger(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await lab.sink("splunk", TOKEN, url=url_of(end))
    # Whatever tells of sinks is refused, in spells of failing.
    strict.refuses = lambda document: document["metadata"]["event_code"].startswith("sink.")
    export = lab.export(sink)
    for _ in range(12):
        end.troubles += [answers(500)] * 3
        await lab.write(1)
        for _ in range(4):
            await lab.drain(export)
            lab.clock.advance(seconds=40)
        await lab.sign()
    # 12 spells in half an hour: told of once in ten minutes, and what was told is not told of.
    failing = await lab.told("sink.failing")
    assert 3 <= len(failing) <= 4
    assert sum(one["spells"] for one in failing) <= 12
    assert await lab.told("sink.dead-lettered") == []
    assert await lab.size() <= 1 + 12 + 2 * 4
    await export.close()


async def test_a_failure_says_what_the_destination_answered(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    _, end = hec
    sink = await lab.sink("splunk", TOKEN, url=url_of(end))
    await lab.write(1)
    end.troubles.append(answers(502, b"<html>\r\n" + b"x" * 5_000))
    export = lab.export(sink)
    await lab.drain(export)
    failing = await lab.get(sink)
    assert failing.answer_status == 502
    assert len(str(failing.answer_text).encode()) == 256
    await export.close()


async def test_entries_that_the_database_has_lost_are_told_of_and_passed(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd], fresh_database: Database
) -> None:
    strict, end = hec
    sink = await lab.sink("splunk", TOKEN, url=url_of(end))
    await lab.write(20)
    engine = sa.create_engine(fresh_database.superuser_url.replace("://", "+psycopg://", 1))
    with engine.begin() as connection:
        for table in ("ledger_entries", "ledger_events"):
            connection.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
        connection.execute(sa.text("DELETE FROM ledger_entries WHERE leaf_index IN (5, 6)"))
        connection.execute(
            sa.text(
                "DELETE FROM ledger_events WHERE id = (SELECT event_id FROM ledger_entries"
                " WHERE leaf_index = 9)"
            )
        )
    engine.dispose()
    export = lab.export(sink)
    await lab.drain(export)
    assert strict.indexes == [index for index in range(21) if index not in (5, 6)]
    assert [index_of(one) for one in strict.taken if one["class_uid"] == 0] == [9]
    assert await lab.told("sink.gap") == [
        {"reason": "missing", "count": 2, "first_index": 5, "last_index": 6}
    ]
    await export.close()


async def test_secrets_are_sealed_and_those_that_count_no_more_are_gone(lab: Lab) -> None:
    sink = await lab.sink("splunk", TOKEN, url="https://siem.example")
    other = "another-token-of-splunk"
    await lab.change(sink_changes.rotate_secret, lab.kek, sink.id, secret=other)
    async with lab.sessions() as session:
        rows = (await session.execute(sa.select(tables.secrets))).all()
        found = [row.id for row in rows]
        stored = str(rows) + str((await session.execute(sa.select(tables.sinks))).all())
        stored += str((await session.execute(sa.select(tables.ledger_events))).all())
    assert found == [f"sink-secret:{sink.id}/2"]
    assert TOKEN not in stored
    assert other not in stored
    await lab.change(sink_changes.delete_sink, sink.id)
    async with lab.sessions() as session:
        assert (await session.execute(sa.select(tables.secrets))).all() == []


async def test_a_change_that_changes_nothing_is_no_event(lab: Lab) -> None:
    sink = await lab.sink("file", file_name="a.jsonl")
    same = parse_config(sink.config)
    await lab.change(sink_changes.change_sink, sink.id, name="file", config=same)
    assert await lab.told("sink.changed") == []
    assert (await lab.get(sink)).revision == 1
