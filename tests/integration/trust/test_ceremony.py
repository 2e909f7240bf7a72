"""`tensorguard trust`: root keys that are elsewhere, drafts that travel, thresholds of both."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.draft import Draft
from tensorguard.services.trust.rootkeys import load_root_directory
from tests.integration.trust.site import Site, invoke


def trust(*arguments: str, refused: str | None = None) -> str:
    """Run a command where there is no platform; what it said."""
    nothing = dict.fromkeys(("TG_DATABASE_URL", "TG_DATA_DIR"), "")
    said, error = invoke("trust", *arguments, environment=nothing)
    assert (None if error is None else error.code) == refused, f"{said}{error}"
    return said


def offline(*arguments: str) -> str:
    """The same, in a process that knows of no platform, no database and no home."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TG_", "PG")) and name != "HOME"
    } | {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-m", "tensorguard.cli", "trust", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_root(folder: Path) -> dict[str, str]:
    """A root key of its own on another machine, its passphrase in a file."""
    [made] = json.loads(trust("root", "new", "--out", str(folder), "--json"))["root_keys"]
    (folder / "phrase").write_text(made["passphrase"] + "\n")
    assert Path(made["key"]).stat().st_mode & 0o777 == 0o600
    return made | {"phrase": str(folder / "phrase")}


def signed(draft: Path, key: dict[str, str], run: Callable[..., str] = trust) -> str:
    return run(
        *("sign", str(draft), "--key", key["key"], "--passphrase-file", key["phrase"]), "--yes"
    )


async def test_the_ceremony_moves_every_root_key_off_the_machine(
    site: Site, tmp_path: Path
) -> None:
    one, two = new_root(tmp_path / "one"), new_root(tmp_path / "two")
    old = [signer.kid for signer in load_root_directory(site.root_keys)]
    stick = tmp_path / "stick"
    exported = await site.run("trust", "root", "export", "--out", str(stick), "--remove")
    assert list(site.root_keys.iterdir()) == []
    assert {key["kid"] for key in exported["root_keys"]} == set(old)
    keys = []
    for number, key in enumerate(exported["root_keys"]):
        (stick / f"phrase-{number}").write_text(key["passphrase"])
        keys.append(key | {"phrase": str(stick / f"phrase-{number}")})

    draft = tmp_path / "bundle.json"
    asked = ["--add-root", one["public"], "--add-root", two["public"], "--threshold", "2"]
    for kid in old:
        asked += ["--remove-root", kid[:12]]
    report = await site.run("trust", "draft", "--out", str(draft), *asked)
    assert (report["version"], report["complete"]) == (2, False)

    said = signed(draft, one, offline)
    assert f"ADDS root key {one['kid']}" in said
    assert f"REMOVES root key {old[0]}" in said
    assert "CHANGES the threshold: 1 → 2 of 2" in said
    refused = await site.run("trust", "publish", str(draft), expect=1)
    assert refused["code"] == "bundle-below-threshold"
    assert "the current root keys" in refused["message"]
    assert all(kid[:16] in refused["message"] for kid in old)
    signed(draft, keys[0])
    refused = await site.run("trust", "publish", str(draft), expect=1)
    assert "its own root keys" in refused["message"]
    assert two["kid"][:16] in refused["message"]
    assert one["kid"][:16] not in refused["message"]
    signed(draft, two)
    assert (await site.run("trust", "publish", str(draft)))["version"] == 2

    shown = await site.run("trust", "show")
    assert (shown["version"], shown["root_threshold"]) == (2, 2)
    assert set(shown["roots"]) == {one["kid"], two["kid"]}
    [(entry,)] = await site.rows(
        "SELECT entry FROM ledger_events WHERE type = 'trust-bundle.published' ORDER BY id DESC"
        " LIMIT 1"
    )
    details = json.loads(bytes(entry))["details"]
    assert set(details["signed_by"]) == {one["kid"], two["kid"], keys[0]["kid"]}
    assert set(details["roots_removed"]) == set(old)
    # Published once: the same file is no bundle that follows the newest.
    again = await site.run("trust", "publish", str(draft), expect=1)
    assert again["code"] == "bundle-not-next"


async def test_a_rotation_hands_its_bundles_to_root_keys_that_are_elsewhere(
    site: Site, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    exported = await site.run("trust", "root", "export", "--out", str(stick), "--remove")
    key = exported["root_keys"][0]
    (stick / "phrase").write_text(key["passphrase"])
    key |= {"phrase": str(stick / "phrase")}
    rotate = ["trust", "rotate-ca", "--settle", "100ms", "--draft"]
    for number, cas in ((2, 2), (3, 1)):
        draft = tmp_path / f"{number}.json"
        refused = await site.run(*rotate, str(draft), expect=1)
        assert refused["code"] == "root-signatures-missing"
        said = signed(draft, key)
        assert ("ADDS CA" in said) is (number == 2)
        assert ("REMOVES CA" in said) is (number == 3)
        # Asking again takes nothing of what has been signed meanwhile.
        before = draft.read_bytes()
        await site.run(*rotate, str(draft), expect=1)
        assert draft.read_bytes() == before
        await site.run("trust", "publish", str(draft))
        newest = "SELECT envelope FROM trust_bundles WHERE version = :n"
        [(raw,)] = await site.rows(newest, n=number)
        assert len(TrustStore.open_first(bytes(raw)).cas) == cas
    done = await site.run(*rotate, str(tmp_path / "none.json"))
    assert done["step"] == "done"
    assert not (tmp_path / "none.json").exists()
    states = await site.rows("SELECT state FROM ca_certificates ORDER BY not_before")
    assert [state for (state,) in states] == ["retired", "issuing"]


async def test_what_was_drafted_before_the_last_change_is_refused(
    site: Site, tmp_path: Path
) -> None:
    draft = tmp_path / "bundle.json"
    await site.run("trust", "draft", "--out", str(draft))
    await site.run(
        "trust", "sign", str(draft), "--key", str(next(site.root_keys.glob("*.key"))), "--yes"
    )
    async with site.sessions.begin() as session:
        await session.execute(
            sa.text(
                "INSERT INTO publishers (kid, name, alg, public, names, not_before, not_after,"
                " created_at, created_by) VALUES (repeat('ab', 32), 'acme', 'ed25519',"
                " decode(repeat('00', 32), 'hex'), '{*}', now(), now() + interval '1 day', now(),"
                " 'x')"
            )
        )
    refused = await site.run("trust", "publish", str(draft), expect=1)
    assert refused["code"] == "trust-bundle-outdated"
    assert "REMOVES publisher abab" in refused["message"]
    assert (await site.rows("SELECT max(version) FROM trust_bundles"))[0][0] == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--threshold", "3"), "bad-roots"),
        (("--remove-root", "ffffffffffff"), "bad-roots"),
        (("--remove-root", "a"), "bad-roots"),
    ],
)
async def test_root_keys_that_cannot_be_are_refused(
    site: Site, tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    refused = await site.run(
        "trust", "draft", "--out", str(tmp_path / "x.json"), *arguments, expect=1
    )
    assert refused["code"] == code
    assert not (tmp_path / "x.json").exists()


async def test_a_draft_is_not_overwritten_and_a_stranger_does_not_sign_it(
    site: Site, tmp_path: Path
) -> None:
    draft = tmp_path / "bundle.json"
    await site.run("trust", "draft", "--out", str(draft))
    before = draft.read_bytes()
    refused = await site.run("trust", "draft", "--out", str(draft), expect=1)
    assert "exists" in refused["message"]
    stranger = new_root(tmp_path / "stranger")
    trust(
        *("sign", str(draft), "--key", stranger["key"], "--passphrase-file", stranger["phrase"]),
        "--yes",
        refused="bad-bundle",
    )
    assert draft.read_bytes() == before
    (tmp_path / "wrong").write_text("wrong\n")
    key = str(next(site.root_keys.glob("*.key")))
    trust(
        *("sign", str(draft), "--key", key, "--passphrase-file", str(tmp_path / "wrong"), "--yes"),
        refused="root-keys-unusable",
    )
    (tmp_path / "rubbish").write_text("{}")
    trust("sign", str(tmp_path / "rubbish"), "--key", key, "--yes", refused="bad-bundle")
    assert Draft.parse(before).following.version == 2
