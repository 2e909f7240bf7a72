"""The ledger over HTTP: the exact bytes, the signed checkpoint, the key that verifies it."""

import asyncio
import base64
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from api.context import utc_now
from hub.sequencer import Sequencer
from tensorguard.ledger.checkpoint import (
    parse_checkpoint,
    parse_verifier_key,
    verify_checkpoint,
)
from tensorguard.ledger.tree import Frontier, leaf_hash, verify_consistency, verify_inclusion
from tensorguard.ledger.verify import Progress, read_key, verify
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tests.integration.api.clients import Api, new_slug

LEDGER = "/api/v1/ledger"


async def _sequence(api: Api) -> None:
    context = api.context
    async with context.sessions() as session:
        keyring = await Keyring.load(session, context.kek, only={"ledger"})
    sequencer = Sequencer(
        context.sessions,
        trust_domain=keyring.trust_domain,
        signers=lambda: keyring.ledger_signers,
        clock=utc_now,
        random=random.Random(1),
        checkpoint_every=timedelta(0),
    )
    while await sequencer.step():
        pass


async def test_entries_are_the_bytes_whose_hashes_stand_in_the_tree(api: Api) -> None:
    fleet = await api.new_fleet()
    await _sequence(api)
    compliance = await api.as_role(Role.COMPLIANCE)
    params = {"fleet": fleet, "type": "fleet"}
    (item,) = (await compliance.get(f"{LEDGER}/entries", params=params)).json()["items"]
    entry = base64.b64decode(item["entry"], validate=True)
    assert item["leaf_hash"] == leaf_hash(entry).hex()
    assert fleet.encode() in entry


async def test_entries_come_with_the_names_that_the_ledger_does_not_hold(api: Api) -> None:
    made = await api.admin.post(
        "/api/v1/users", json={"email": f"{new_slug()}@example.org", "name": "N", "role": "viewer"}
    )
    user = made.json()["user"] if "user" in made.json() else made.json()
    await _sequence(api)
    compliance = await api.as_role(Role.COMPLIANCE)
    params = {"subject": user["id"], "type": "user.created"}
    (item,) = (await compliance.get(f"{LEDGER}/entries", params=params)).json()["items"]
    assert item["subject_name"] == user["email"]
    assert item["actor_name"] == "test"  # the key that the administrator here uses
    assert user["email"].encode() not in base64.b64decode(item["entry"])


async def test_pages_of_entries_have_no_gap_and_no_repetition(api: Api) -> None:
    for _ in range(3):
        await api.new_fleet()
    await _sequence(api)
    indexes: list[int] = []
    cursor = None
    while True:
        params = {"limit": 3, "end": 10} | ({"cursor": cursor} if cursor else {})
        page = (await api.admin.get(f"{LEDGER}/entries", params=params)).json()
        indexes += [item["leaf_index"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert indexes == list(range(10))


async def test_the_checkpoint_is_signed_by_the_key_that_is_served(api: Api) -> None:
    await api.new_fleet()
    await _sequence(api)
    note = await api.admin.get(f"{LEDGER}/checkpoint")
    key = await api.admin.get(f"{LEDGER}/key")
    assert note.headers["content-type"].startswith("text/plain")
    verified = verify_checkpoint(note.text, [parse_verifier_key(key.text.strip())])
    assert verified.size > 0
    frontier = Frontier()
    while frontier.size < verified.size:
        params = {"start": frontier.size, "end": verified.size, "limit": 500}
        page = (await api.admin.get(f"{LEDGER}/entries", params=params)).json()
        for item in page["items"]:
            frontier.append(leaf_hash(base64.b64decode(item["entry"])))
    assert frontier.root == verified.root


async def test_a_table_of_made_up_indexes_is_refused(api: Api) -> None:
    for query in ("start=-1", "end=x", "start=9007199254740993", "type=A", "cursor=WyJhIl0"):
        assert (await api.admin.get(f"{LEDGER}/entries?{query}")).status_code == 422


async def test_the_newest_entries_come_first_when_asked_and_pages_lead_back(api: Api) -> None:
    fleet = await api.new_fleet()
    other = await api.new_fleet()
    await _sequence(api)
    indexes: list[int] = []
    cursor = None
    while True:
        params = {"limit": 4, "order": "desc"} | ({"cursor": cursor} if cursor else {})
        page = (await api.admin.get(f"{LEDGER}/entries", params=params)).json()
        indexes += [item["leaf_index"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert indexes == list(range(len(indexes)))[::-1]
    newest = {"order": "desc", "limit": 2, "type": ["fleet.created", "token"]}
    items = (await api.admin.get(f"{LEDGER}/entries", params=newest)).json()["items"]
    found = [base64.b64decode(item["entry"]) for item in items]
    assert other.encode() in found[0]
    assert fleet.encode() in found[1]


async def test_proofs_over_http_lead_to_the_signed_root(api: Api) -> None:
    await api.new_fleet()
    await _sequence(api)
    note = (await api.admin.get(f"{LEDGER}/checkpoint")).text
    signed = parse_checkpoint(note)
    items = (await api.admin.get(f"{LEDGER}/entries", params={"start": 3, "end": 4})).json()
    (item,) = items["items"]
    params = {"index": 3, "size": signed.size}
    proof = (await api.admin.get(f"{LEDGER}/proof/inclusion", params=params)).json()
    path = [bytes.fromhex(one) for one in proof["audit_path"]]
    leaf = leaf_hash(base64.b64decode(item["entry"]))
    verify_inclusion(3, signed.size, leaf, path, signed.root)
    assert proof["root_hash"] == signed.root.hex()
    sizes = {"first": 4, "second": signed.size}
    answer = (await api.admin.get(f"{LEDGER}/proof/consistency", params=sizes)).json()
    old = (await api.admin.get(f"{LEDGER}/proof/inclusion", params={"index": 0, "size": 4})).json()
    verify_consistency(
        4,
        signed.size,
        bytes.fromhex(old["root_hash"]),
        signed.root,
        [bytes.fromhex(one) for one in answer["consistency_path"]],
    )
    beyond = {"index": 0, "size": signed.size + 1}
    refused = await api.admin.get(f"{LEDGER}/proof/inclusion", params=beyond)
    assert (refused.status_code, refused.json()["code"]) == (404, "no-such-proof")
    assert (await api.admin.get(f"{LEDGER}/forks")).json() == []


async def test_an_export_over_http_is_verified_by_the_file_alone(api: Api, tmp_path: Path) -> None:
    fleet = await api.new_fleet()
    await _sequence(api)
    key = (await api.admin.get(f"{LEDGER}/key")).text.strip()
    for name, params in (("all", {}), ("filtered", {"fleet": fleet, "since": 3})):
        answer = await api.admin.get(f"{LEDGER}/export", params=params)
        assert answer.headers["content-type"] == "application/zstd"
        (tmp_path / name).write_bytes(answer.content)
        progress = Progress(sys.stderr, wanted=False)
        verdict = verify(str(tmp_path / name), [read_key(key)], None, progress)
        assert verdict.problem is None
        assert verdict.entries > 0
    exported = await api.events("ledger.exported")
    assert [one["filtered"] for one in exported[-2:]] == [False, True]
    assert (await api.admin.get(f"{LEDGER}/export", params={"since": 2**40})).status_code == 404


async def test_private_fields_are_read_by_admins_alone_until_they_are_erased(api: Api) -> None:
    email = f"{new_slug()}@example.org"
    body = {"email": email, "name": "N", "role": "viewer"}
    made = (await api.admin.post("/api/v1/users", json=body)).json()
    user = made.get("user", made)
    table = tables.ledger_events
    query = sa.select(table.c.id).where(
        table.c.subject_id == user["id"], table.c.type == "user.created"
    )
    async with api.context.sessions() as session:
        entry = str((await session.execute(query)).scalar_one())
    path, wanted = f"{LEDGER}/private", {"ids": [entry]}
    compliance = await api.as_role(Role.COMPLIANCE)
    assert (await compliance.post(path, json=wanted)).status_code == 403
    (found,) = (await api.admin.post(path, json=wanted)).json()
    assert found["fields"] == {"email": email, "name": "N"}
    subject = {"kind": "user", "id": user["id"]}
    erased = await api.admin.post(f"{LEDGER}/erasures", json=subject)
    assert erased.json() == {"keys": 1}
    (gone,) = (await api.admin.post(path, json=wanted)).json()
    assert gone["fields"] is None
    assert (await api.admin.post(f"{LEDGER}/erasures", json=subject)).status_code == 404


async def test_a_list_leaves_out_what_is_noise_and_the_count_says_how_much(api: Api) -> None:
    fleet = await api.new_fleet()
    await api.admin.post(f"/api/v1/fleets/{fleet}/tokens", json={"expires_in_s": 600})
    await _sequence(api)
    everything = {"fleet": fleet}
    count = (await api.admin.get(f"{LEDGER}/count", params=everything)).json()
    assert count["is_exact"]
    fewer = everything | {"without": ["fleet.created", "token"]}
    items = (await api.admin.get(f"{LEDGER}/entries", params=everything)).json()["items"]
    kept = (await api.admin.get(f"{LEDGER}/entries", params=fewer)).json()["items"]
    hidden = everything | {"type": ["fleet.created", "token"]}
    left_out = (await api.admin.get(f"{LEDGER}/count", params=hidden)).json()["count"]
    assert count["count"] == len(items) == len(kept) + left_out
    assert left_out >= 1
    for asked in ({"outcome": "denied"}, {"actor": "nobody"}, {"before": "2020-01-01T00:00:00Z"}):
        found = await api.admin.get(f"{LEDGER}/count", params=everything | asked)
        assert found.json() == {"count": 0, "is_exact": True}
    for wrong in ("outcome=good", "before=yesterday", "not_before=2020-01-01", "actor=%00"):
        assert (await api.admin.get(f"{LEDGER}/entries?{wrong}")).status_code == 422


async def test_every_type_of_entry_can_be_asked_for_by_name(api: Api) -> None:
    types = {one["type"]: one for one in (await api.admin.get(f"{LEDGER}/types")).json()}
    assert {"fleet.created", "agent.reported.self-test", "session.failed"} <= set(types)
    assert "agent.reported.<type>" not in types
    assert types["session.failed"]["outcome"] == "denied"


async def test_the_verifier_that_is_served_verifies_what_is_exported(
    api: Api, tmp_path: Path
) -> None:
    fleet = await api.new_fleet()
    await _sequence(api)
    served = await api.admin.get(f"{LEDGER}/verify.py")
    assert served.headers["content-disposition"] == 'attachment; filename="verify.py"'
    (tmp_path / "verify.py").write_text(served.text)
    export = await api.admin.get(f"{LEDGER}/export", params={"fleet": fleet})
    (tmp_path / "export").write_bytes(export.content)
    key = (await api.admin.get(f"{LEDGER}/key")).text.split("\n")[0]
    command = [sys.executable, "-I", str(tmp_path / "verify.py"), str(tmp_path / "export")]
    ended = await asyncio.to_thread(
        subprocess.run, [*command, "--key", key], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout[:8]) == (0, "verified"), ended.stdout + ended.stderr


async def test_checkpoints_tell_their_epoch_and_who_remembers_them(api: Api) -> None:
    await api.new_fleet()
    await _sequence(api)
    found = (await api.admin.get(f"{LEDGER}/checkpoints")).json()
    assert (found["epoch"], found["agents"], found["largest_size"]) == (1, 0, None)
    assert found["signed_at"] is not None
    viewer = await api.as_role(Role.VIEWER)
    for path in ("checkpoints", "count", "types", "verify.py"):
        assert (await viewer.get(f"{LEDGER}/{path}")).status_code == 403
