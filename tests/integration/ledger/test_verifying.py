"""The offline verifier against a database whose owner changes it: it names the entry."""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backports.zstd import decompress
from msgspec import structs

import tensorguard.ledger.verify
from tensorguard.ledger.checkpoint import VerifierKey
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import AgentReported
from tensorguard.services.evidence.exporting import ExportRequest, export_compressed
from tensorguard.services.evidence.filters import EntryFilter
from tensorguard.services.evidence.tree_queries import get_latest_checkpoint
from tensorguard.store.engine import SessionMaker
from tests.integration.ledger.builders import (
    KEY,
    ORIGIN,
    MakeSequencer,
    fleet_created,
    now,
    reported,
)
from tests.postgres import Database

SIZE = 600
VERIFIER = Path(tensorguard.ledger.verify.__file__)
Export = Callable[..., Awaitable[Path]]
FLEETS = EntryFilter(type_prefixes=["fleet"])
TABLES = ("ledger_events", "ledger_entries", "ledger_hashes", "ledger_checkpoints")


@pytest.fixture
async def signed(sessions: SessionMaker, make_sequencer: MakeSequencer) -> str:
    """A ledger of 600 entries, signed at 100 and at the end; the older note."""
    sequencer, older = make_sequencer(checkpoint_every=timedelta(0)), ""
    for first, count, slug in ((0, 100, "factory-b"), (100, SIZE - 100, "hospital-a")):
        async with sessions.begin() as session:
            events = [in_ward(number, first + number + 1) for number in range(count - 1)]
            await ledger.record_many(session, [fleet_created(slug), *events], now=now())
        await sequencer.step()
        async with sessions() as session:
            note = (await get_latest_checkpoint(session)).note
        older = older or note
    return older


@pytest.fixture
def export(sessions: SessionMaker, tmp_path: Path) -> Export:
    async def made(name: str = "export", **request: Any) -> Path:
        path = tmp_path / f"{name}.ndjson.zst"
        async with sessions() as session:
            chunks = [part async for part in export_compressed(session, ExportRequest(**request))]
        path.write_bytes(b"".join(chunks))
        return path

    return made


def verify(
    path: Path | str, *more: str, key: str = str(KEY), piped: bytes = b""
) -> tuple[int, dict[str, Any]]:
    """Run the file alone, as somebody does who has nothing else of ours."""
    command = [sys.executable, "-I", str(VERIFIER), str(path), "--key", key, "--json", *more]
    ended = subprocess.run(command, input=piped, capture_output=True, timeout=60, check=False)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def in_ward(number: int, index: int) -> AgentReported:
    """An event; each seventh entry is one of the ward's."""
    event = reported(number)
    return structs.replace(event, fleet="ward") if index % 7 == 0 else event


def tell(path: Path) -> str:
    """What people read of an export that is as it was signed."""
    command = [sys.executable, "-I", str(VERIFIER), str(path), "--key", str(KEY)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return ended.stdout


def tamper(database: Database, *statements: str) -> None:
    with psycopg.connect(database.superuser_url) as connection:
        for table in TABLES:
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        for statement in statements:
            connection.execute(statement)


async def test_an_export_as_it_was_signed_is_verified(signed: str, export: Export) -> None:
    code, said = verify(await export())
    assert (code, said["ok"], said["entries"], said["tree_size"]) == (0, True, SIZE, SIZE)
    assert (said["origin"], said["first_index"], said["last_index"]) == (ORIGIN, 0, SIZE - 1)


@pytest.mark.parametrize(
    ("request_", "entries"),
    [
        ({"start": 17, "end": 230}, 213),
        ({"only": FLEETS}, 2),
        ({"only": FLEETS, "start": 50}, 1),
        ({"only": EntryFilter(without=["agent"])}, 2),
        ({"only": EntryFilter(type_prefixes=["nothing"])}, 0),
    ],
)
async def test_a_range_and_a_filter_prove_each_entry_in_its_place(
    signed: str, export: Export, tmp_path: Path, request_: dict[str, Any], entries: int
) -> None:
    path = await export(**request_, since=100)
    (tmp_path / "older").write_text(signed)
    code, said = verify(path, "--since", str(tmp_path / "older"))
    assert (code, said["entries"], said["since_size"]) == (0, entries, 100)
    plain = decompress(path.read_bytes()).replace(b'"leaf_index":100', b'"leaf_index":101')
    (tmp_path / "moved").write_bytes(plain)
    if entries and plain != decompress(path.read_bytes()):
        assert verify(tmp_path / "moved")[0] == 1


async def test_people_are_told_what_an_export_leaves_out(signed: str, export: Export) -> None:
    for path, left_out in ((await export("all"), ""), (await export("part", end=230), "370 ")):
        said = tell(path)
        assert ("are not in this export" in said) is bool(left_out)
        assert left_out in said


async def test_an_older_checkpoint_has_to_be_a_prefix(
    signed: str, export: Export, tmp_path: Path, fresh_database: Database
) -> None:
    from tensorguard.ledger.checkpoint import Checkpoint, sign_checkpoint
    from tests.integration.ledger.builders import SIGNER

    path = await export()
    (tmp_path / "other").write_text(sign_checkpoint(Checkpoint(ORIGIN, 100, bytes(32)), [SIGNER]))
    code, said = verify(path, "--since", str(tmp_path / "other"))
    assert code == 1
    assert "rewritten and signed again" in said["problem"]
    beyond = sign_checkpoint(Checkpoint(ORIGIN, SIZE + 5, bytes(32)), [SIGNER])
    (tmp_path / "beyond").write_text(beyond)
    code, said = verify(path, "--since", str(tmp_path / "beyond"))
    assert (code, said["first_bad_index"]) == (1, SIZE)


SHIFT = "UPDATE ledger_entries SET leaf_index = leaf_index {} WHERE leaf_index {}"
EDIT = (
    "UPDATE ledger_events SET entry = convert_to(replace(convert_from(entry, 'UTF8'),"
    " '2026', '2025'), 'UTF8') FROM ledger_entries WHERE event_id = id AND leaf_index = 301"
)
REHASH = (
    "UPDATE ledger_entries SET leaf_hash = sha256('\\x00'::bytea || entry) FROM ledger_events"
    " WHERE event_id = id AND leaf_index = 301"
)


@pytest.mark.parametrize(
    ("statements", "first", "last", "words"),
    [
        pytest.param([EDIT], 301, 301, "301 was edited", id="edited"),
        pytest.param([EDIT, REHASH], 300, 301, "from 300 to 301", id="edited-with-its-hash"),
        pytest.param(
            [
                "DELETE FROM ledger_events USING ledger_entries"
                " WHERE event_id = id AND leaf_index = 301"
            ],
            301,
            301,
            "301 was deleted",
            id="bytes-deleted",
        ),
        pytest.param(
            ["DELETE FROM ledger_entries WHERE leaf_index BETWEEN 301 AND 302"],
            301,
            302,
            "301 to 302 were deleted",
            id="rows-deleted",
        ),
        pytest.param(
            [
                "DELETE FROM ledger_entries WHERE leaf_index = 301",
                SHIFT.format("+ 100000", "> 301"),
                SHIFT.format("- 100001", "> 100000"),
            ],
            300,
            301,
            "300 or 301 was deleted",
            id="deleted-and-closed-up",
        ),
        pytest.param(
            [
                SHIFT.format("+ 100000", ">= 301"),
                SHIFT.format("- 99999", ">= 100000"),
                "INSERT INTO ledger_events SELECT '00000000-0000-0000-0000-000000000001',"
                " '{}', time, type, actor_kind, actor_id, subject_kind, subject_id, fleet, outcome"
                " FROM ledger_events LIMIT 1",
                "INSERT INTO ledger_entries (epoch, leaf_index, event_id, leaf_hash) VALUES"
                " (1, 301, '00000000-0000-0000-0000-000000000001',"
                " sha256('\\x00'::bytea || '{}'::bytea))",
            ],
            301,
            301,
            "301 was inserted",
            id="inserted",
        ),
        pytest.param(
            [
                "UPDATE ledger_entries SET leaf_index = 900000 WHERE leaf_index = 300",
                "UPDATE ledger_entries SET leaf_index = 300 WHERE leaf_index = 301",
                "UPDATE ledger_entries SET leaf_index = 301 WHERE leaf_index = 900000",
            ],
            300,
            301,
            "300 and 301 have changed places",
            id="neighbours-swapped",
        ),
        pytest.param(
            [
                "CREATE TEMP TABLE swap AS SELECT leaf_index, event_id FROM ledger_entries"
                " WHERE leaf_index IN (301, 450)",
                "UPDATE ledger_entries SET event_id = gen_random_uuid()"
                " WHERE leaf_index IN (301, 450)",
                "UPDATE ledger_entries e SET event_id = s.event_id FROM swap s"
                " WHERE e.leaf_index = 751 - s.leaf_index AND e.leaf_index IN (301, 450)",
            ],
            301,
            301,
            "301 was moved: it stands at 450",
            id="reordered",
        ),
    ],
)
async def test_what_the_databases_owner_did_is_named(
    signed: str,
    export: Export,
    fresh_database: Database,
    statements: list[str],
    first: int,
    last: int,
    words: str,
) -> None:
    tamper(fresh_database, *statements)
    code, said = verify(await export())
    assert (code, said["ok"]) == (1, False)
    assert words in said["problem"]
    assert (said["first_bad_index"], said["last_bad_index"]) == (first, last)


SWAP = [
    "UPDATE ledger_entries SET leaf_index = 900000 WHERE leaf_index = 301",
    "UPDATE ledger_entries SET leaf_index = 301 WHERE leaf_index = 308",
    "UPDATE ledger_entries SET leaf_index = 308 WHERE leaf_index = 900000",
]
LOSE = "DELETE FROM ledger_entries WHERE leaf_index = {}"


@pytest.mark.parametrize(
    ("statements", "first", "last", "words"),
    [
        pytest.param([EDIT], 301, 301, "301 was edited", id="edited"),
        pytest.param([EDIT, REHASH], 300, 301, "from 300 to 301", id="edited-with-its-hash"),
        pytest.param(SWAP, 300, 301, "from 300 to 301", id="moved"),
        pytest.param([LOSE.format(301)], 301, 301, "301 was deleted", id="deleted"),
        pytest.param([LOSE.format(303)], 303, 303, "303 was deleted", id="deleted-in-a-gap"),
        pytest.param(
            [LOSE.format(303), "DELETE FROM ledger_hashes WHERE level BETWEEN 1 AND 3"],
            303,
            303,
            "303 was deleted",
            id="deleted-with-hashes",
        ),
        pytest.param(
            [
                "DELETE FROM ledger_events USING ledger_entries"
                " WHERE event_id = id AND leaf_index = 301"
            ],
            301,
            301,
            "301 was deleted",
            id="bytes-deleted",
        ),
    ],
)
async def test_a_filtered_export_names_the_entry_too(
    signed: str,
    export: Export,
    fresh_database: Database,
    statements: list[str],
    first: int,
    last: int,
    words: str,
) -> None:
    ward = EntryFilter(fleet="ward")
    assert verify(await export(only=ward))[1]["entries"] == SIZE // 7
    tamper(fresh_database, *statements)
    code, said = verify(await export("damaged", only=ward))
    assert (code, said["ok"]) == (1, False)
    assert words in said["problem"]
    assert (said["first_bad_index"], said["last_bad_index"]) == (first, last)


async def test_a_pipe_is_verified_like_a_file(
    signed: str, export: Export, fresh_database: Database
) -> None:
    tamper(fresh_database, EDIT)
    path = await export()
    code, said = verify("-", piped=path.read_bytes())
    assert (code, said["first_bad_index"]) == (1, 301)


async def test_a_forged_checkpoint_or_another_key_verifies_nothing(
    signed: str, export: Export, tmp_path: Path, fresh_database: Database
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = await export()
    stranger = VerifierKey(ORIGIN, Ed25519PrivateKey.generate().public_key())
    code, said = verify(path, key=str(stranger))
    assert code == 1
    assert "no key that was given has signed" in said["problem"]
    assert verify(path, "--key", str(stranger))[0] == 0  # one of several is enough
    tamper(fresh_database, "UPDATE ledger_checkpoints SET note = replace(note, '600', '599')")
    code, said = verify(await export("forged"))
    assert code == 1
    assert "does not verify" in said["problem"]


async def test_what_cannot_be_read_is_neither_verified_nor_damaged(
    signed: str, export: Export, tmp_path: Path
) -> None:
    path = await export()
    assert verify(tmp_path / "absent")[0] == 2
    assert verify(path, key="no-key")[0] == 2
    (tmp_path / "other").write_text("{}\n")
    assert verify(tmp_path / "other")[0] == 2
    plain = decompress(path.read_bytes())
    (tmp_path / "cut").write_bytes(plain[: len(plain) // 2])
    assert verify(tmp_path / "cut")[0] == 1
    lines = plain.splitlines(keepends=True)
    (tmp_path / "short").write_bytes(b"".join(lines[:-1]))
    assert verify(tmp_path / "short")[0] == 1
    (tmp_path / "lacking").write_bytes(b"".join(lines[:10] + lines[11:]))
    code, said = verify(tmp_path / "lacking")
    assert (code, said["first_bad_index"]) == (1, 9)
