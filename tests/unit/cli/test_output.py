"""One line a record, whoever said it."""

import io
import json
from datetime import UTC, datetime

from tensorguard.cli.supervisor.output import Output

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def written(*, as_json: bool) -> tuple[Output, io.StringIO]:
    stream = io.StringIO()
    return Output(stream, as_json=as_json, now=lambda: NOON), stream


def test_a_service_s_own_record_keeps_its_facts_and_gets_its_name() -> None:
    output, stream = written(as_json=True)
    output.relay("hub", '{"event": "batch_stored", "messages": 5, "timestamp": "then"}')
    assert json.loads(stream.getvalue()) == {
        "event": "batch_stored",
        "messages": 5,
        "time": "then",
        "service": "hub",
    }


def test_a_service_cannot_speak_in_another_s_name() -> None:
    output, stream = written(as_json=True)
    output.relay("hub", '{"event": "x", "service": "api"}')
    assert json.loads(stream.getvalue())["service"] == "hub"


def test_any_text_becomes_one_record_a_line() -> None:
    output, stream = written(as_json=True)
    for line in ("Traceback (most recent call last):", '{"broken', "[1]", ""):
        output.relay("api", line)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record["event"] for record in records] == [
        "Traceback (most recent call last):",
        '{"broken',
        "[1]",
        "",
    ]
    assert {record["service"] for record in records} == {"api"}


def test_a_terminal_gets_words() -> None:
    output, stream = written(as_json=False)
    output.relay("hub", '{"event": "batch_stored", "messages": 5, "level": "warning"}')
    line = stream.getvalue()
    assert "hub" in line
    assert "WARNING batch_stored messages=5" in line
    assert "{" not in line


def test_nobody_reading_stops_nothing() -> None:
    output, stream = written(as_json=True)
    stream.close()
    output.say("still_here")
