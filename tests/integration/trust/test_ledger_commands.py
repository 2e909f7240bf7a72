"""`tensorguard ledger …` on the platform's own machine: export, keys, epochs."""

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tensorguard.ledger.checkpoint import parse_checkpoint
from tensorguard.ledger.verify import run
from tensorguard.services.evidence.signing_keys import list_ledger_keys
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.tables import platform
from tests.integration.trust.site import FLEET, TRUST_DOMAIN, Site
from tests.integration.trust.test_ledger_key import next_note


async def events(site: Site, type_: str) -> list[Any]:
    """Who or what wrote entries of a type, and of which subject."""
    return await site.rows(
        "SELECT actor_id, subject_id FROM ledger_events WHERE type = :type ORDER BY id", type=type_
    )


async def test_an_export_by_filter_is_written_whole_and_verified(
    site: Site, tmp_path: Path
) -> None:
    async with site.sessions() as session:
        keyring = await Keyring.load(session, site.kek)
        (key,) = await list_ledger_keys(session)
    (tmp_path / "older").write_text(await next_note(site, keyring))
    older = parse_checkpoint((tmp_path / "older").read_text())
    size = parse_checkpoint(await next_note(site, keyring)).size
    assert size > older.size
    given = ["--key", str(key.verifier), "--since", str(tmp_path / "older")]
    out = tmp_path / "export.ndjson.zst"
    everything = await site.run("ledger", "export", "--out", str(out))
    assert (everything["file"], everything["size_bytes"]) == (str(out), out.stat().st_size)
    assert run([str(out), *given]) == 0
    filtered = ("--type", "fleet", "--fleet", FLEET, "--not-before", "2020-01-01")
    since = ("--since", str(older.size))
    small = await site.run("ledger", "export", "--out", str(out), *filtered, *since)
    assert small["size_bytes"] < everything["size_bytes"]
    assert run([str(out), *given]) == 0
    refused = await site.run("ledger", "export", "--out", str(out), "--since", "999999", expect=1)
    assert refused["code"] == "no-such-proof"
    assert run([str(out), *given]) == 0  # the file of before
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


async def test_a_key_is_rotated_and_the_older_one_retired(site: Site) -> None:
    async with site.sessions() as session:
        keyring = await Keyring.load(session, site.kek)
        (old,) = await list_ledger_keys(session)
    assert (await site.run("ledger", "retire-key", expect=1))["code"] == "no-rotation"
    made = await site.run("ledger", "rotate-key")
    assert made["kid"] != old.kid
    assert (await site.run("ledger", "rotate-key", expect=1))["code"] == "rotation-under-way"
    assert (await site.run("ledger", "retire-key", expect=1))["code"] == "new-key-unknown"
    await site.publish()
    await next_note(site, keyring)
    assert await site.run("ledger", "retire-key") == {"retired": old.kid}
    async with site.sessions() as session:
        assert [key.kid for key in await list_ledger_keys(session)] == [made["kid"]]
    assert await events(site, "ledger.key-retired") == [("command-line", old.kid)]
    assert ("command-line", made["kid"]) in await events(site, "ledger.key-created")


async def test_a_new_epoch_begins_with_what_was_known_and_why(site: Site, tmp_path: Path) -> None:
    async with site.sessions() as session:
        keyring = await Keyring.load(session, site.kek)
    note = await next_note(site, keyring)
    (tmp_path / "note").write_text(note)
    (tmp_path / "foreign").write_text(note.replace(TRUST_DOMAIN, "elsewhere.example"))
    new = ("ledger", "new-epoch", "--reason", "The backup was too old.", "--checkpoint")
    refused = await site.run(*new, str(tmp_path / "foreign"), expect=1)
    assert refused["code"] == "foreign-checkpoint"
    begun = await site.run(*new, str(tmp_path / "note"))
    held = parse_checkpoint(note).size
    assert begun == {"epoch": 2, "origin": f"{TRUST_DOMAIN}/ledger/2", "held": held}
    async with site.sessions() as session:
        assert (await session.execute(sa.select(platform.c.epoch))).scalar_one() == 2
    ((entry,),) = await site.rows(
        "SELECT convert_from(entry, 'UTF8') FROM ledger_events WHERE type = 'ledger.epoch-began'"
    )
    assert "The backup was too old." in entry
    assert note.split("\n")[2] in entry
    newer = parse_checkpoint(await next_note(site, keyring))
    assert (newer.origin, newer.size) == (begun["origin"], 2)
