"""Every event of the catalogue is an event of OCSF, by the schema that OCSF publishes."""

import hashlib
import json
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_args

import jsonschema_rs
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from tensorguard.ledger.entry import Actor, Entry, Outcome, Subject
from tensorguard.ledger.tree import leaf_hash
from tensorguard.services.evidence.catalogue import list_event_types
from tensorguard.siem.item import Item
from tensorguard.siem.ocsf import OCSF_VERSION, Placed, labelled_item, to_item
from tensorguard.store.ids import new_id

NOW = datetime(2026, 3, 4, 5, 6, 7, 891000, tzinfo=UTC)
NOTE = "example.org/ledger/1\n9\nAAAA\n\n— example.org/ledger/1 AAAA\n"
KINDS = [(kind.TYPE, kind.SUBJECT[0], kind.OUTCOME) for kind in list_event_types()]
ACTORS = [
    Actor("user", "u1"),
    Actor("api-key", "k1"),
    Actor("agent", "a1"),
    Actor("service", "hub"),
    Actor("system", "platform"),
]


@cache
def validator_of(class_uid: int, *profiles: str) -> jsonschema_rs.Validator:
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=OCSF_VERSION))
    name = schema.lookup_class_name_from_uid(class_uid=class_uid)
    return jsonschema_rs.validator_for(
        schema.get_class_schema(class_name=name, profiles=list(profiles))
    )


def check(item: Item) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(item.document)
    validator = validator_of(document["class_uid"], *document["metadata"].get("profiles", ()))
    errors = [
        f"{list(error.instance_path)}: {error.message[:200]}"
        for error in validator.iter_errors(document)
    ]
    assert errors == []
    assert document["type_uid"] == document["class_uid"] * 100 + document["activity_id"]
    return document


def placed(entry: bytes, kind: str) -> Placed:
    return Placed(
        epoch=1,
        leaf_index=8,
        leaf_hash=leaf_hash(entry),
        entry=entry,
        time=NOW,
        type=kind,
        checkpoint=NOTE,
    )


def entry_of(kind: str, subject: str, outcome: Outcome, actor: Actor) -> bytes:
    return Entry(
        id=new_id(),
        time=NOW,
        type=kind,
        actor=actor,
        subject=Subject(subject, "s1"),
        fleet=None,
        outcome=outcome,
        details={"text": "é\u2028", "number": 7},
    ).to_bytes()


@pytest.mark.parametrize(("kind", "subject", "outcome"), KINDS, ids=[one[0] for one in KINDS])
def test_every_event_is_one_of_ocsf(kind: str, subject: str, outcome: Outcome) -> None:
    for actor in ACTORS:
        for ended in get_args(Outcome):
            entry = entry_of(kind, subject, ended, actor)
            document = check(to_item(placed(entry, kind), trust_domain="example.org"))
            assert document["metadata"]["event_code"] == kind
            # Whoever has the event can compute its place's hash.
            raw = document["raw_data"].encode()
            facts = document["unmapped"]["integrity"]
            assert hashlib.sha256(b"\0" + raw).hexdigest() == facts["leaf_hash"]
            assert (facts["leaf_index"], facts["checkpoint"]) == (8, NOTE)


def test_an_entry_that_was_damaged_is_sent_as_what_it_is() -> None:
    for damaged in (b"", b"\xff\xfe", b"[]", b"{}", b'{"type":1}'):
        document = check(to_item(placed(damaged, "fleet.created"), trust_domain="example.org"))
        assert (document["class_uid"], document["severity_id"]) == (0, 5)


def test_a_test_says_that_it_is_one() -> None:
    document = check(labelled_item(sink="s1", trust_domain="example.org", now=NOW))
    assert document["metadata"]["labels"] == ["test"]
    assert document["message"].startswith("TEST")
