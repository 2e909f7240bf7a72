"""The catalogue of events: every type is complete, and agents cannot speak for the platform."""

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tensorguard.ledger.entry import MAX_ENTRY_BYTES, Entry
from tensorguard.services.certificates import certificate_events
from tensorguard.services.evidence import agent_events, events
from tensorguard.services.evidence.events import SYSTEM, Actor, AgentReported, Event, Subject

AT = datetime(2026, 3, 4, tzinfo=UTC)
AGENT = UUID("01900000-0000-7000-8000-00000000000a")


def catalogue() -> list[type[Event]]:
    modules = (events, agent_events, certificate_events)
    found = [item for module in modules for item in vars(module).values()]
    classes = {item for item in found if isinstance(item, type) and issubclass(item, Event)}
    return [item for item in classes if hasattr(item, "TYPE")]


def reported(data: dict[str, Any]) -> AgentReported:
    return AgentReported(
        by=Actor("agent", str(AGENT)),
        fleet="hospital-a",
        agent_id=AGENT,
        reported="model.activated",
        log_id=AGENT,
        number=7,
        at=AT,
        data=data,
    )


def written(event: Event) -> dict[str, Any]:
    entry = Entry(
        id=AGENT,
        time=AT,
        type=event.type,
        actor=event.by,
        subject=event.subject,
        fleet=event.fleet,
        outcome=event.outcome,
        details=event.details(),
    ).to_bytes()
    assert len(entry) <= MAX_ENTRY_BYTES
    document: dict[str, Any] = json.loads(entry)
    return document


def test_every_type_is_named_once_and_knows_its_subject() -> None:
    types = [event.TYPE for event in catalogue()]
    assert len(types) == len(set(types)) > 40
    for event in catalogue():
        kind, field = event.SUBJECT
        assert kind
        assert field in event.__struct_fields__


def test_no_event_has_room_for_what_must_be_forgotten() -> None:
    fields = {
        field
        for event in catalogue()
        for field in event.__struct_fields__
        if field not in event.PRIVATE  # what is private can be forgotten
    }
    assert not fields & {"email", "name", "hostname", "host", "address", "ip", "peer", "username"}


def test_the_fields_of_an_event_are_its_details() -> None:
    event = events.TokenCreated(
        by=Actor("user", "u1"),
        fleet="hospital-a",
        token_id=AGENT,
        expires_at=AT,
        max_uses=5,
        approval="auto",
        tags={"gpu": "true"},
    )
    assert (event.type, event.outcome) == ("token.created", "success")
    assert event.subject == Subject("token", str(AGENT))
    assert event.details() == {
        "expires_at": "2026-03-04T00:00:00.000000Z",
        "max_uses": 5,
        "approval": "auto",
        "tags": {"gpu": "true"},
    }


def test_what_is_none_is_left_out_and_a_missing_subject_is_unknown() -> None:
    event = events.SessionFailed(by=SYSTEM, user_id=None, reason="bad-credentials", count=3)
    assert (event.subject, event.outcome) == (Subject("user", "unknown"), "denied")
    assert event.details() == {"reason": "bad-credentials", "count": 3}


def test_what_an_agent_reports_is_named_so_and_keeps_its_number() -> None:
    document = written(reported({"digest": "ab", "list": [1, None]}))
    assert document["type"] == "agent.reported.model.activated"
    assert document["details"] == {
        "log_id": str(AGENT),
        "number": 7,
        "at": "2026-03-04T00:00:00.000000Z",
        "reported": {"digest": "ab", "list": [1, None]},
    }


def test_what_an_agent_reports_beyond_the_limits_is_raw_and_keeps_its_number() -> None:
    deep: dict[str, Any] = {"x": [[[[[[1]]]]]]}
    for data in ({"x": 1.5}, deep, {"x": 2**60}):
        details = written(reported(data))["details"]
        assert details["number"] == 7
        assert json.loads(base64.b64decode(details["raw"])) == data
    details = written(reported({"x": "y" * MAX_ENTRY_BYTES}))["details"]
    assert (details["number"], details["raw_size_bytes"]) == (7, MAX_ENTRY_BYTES + 9)


def test_a_malformed_event_keeps_its_bytes() -> None:
    event = events.EventMalformed(
        by=Actor("agent", str(AGENT)),
        agent_id=AGENT,
        log_id=AGENT,
        number=8,
        reason="bad-message",
        payload=b"\xff{",
    )
    details = written(event)["details"]
    assert (details["number"], base64.b64decode(details["raw"])) == (8, b"\xff{")
