"""`tensorguard admin publisher`: list, rotate, change, and root keys that are elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tensorguard.pki.bundle import TrustStore
from tests.integration.trust.site import Site


def new_key(folder: Path, name: str) -> str:
    public = Ed25519PrivateKey.generate().public_key()
    path = folder / f"{name}.pub"
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(path)


async def publisher(site: Site, *arguments: str, expect: int = 0) -> Any:
    return await site.run("admin", "publisher", *arguments, expect=expect)


async def newest(site: Site) -> TrustStore:
    [(raw,)] = await site.rows("SELECT envelope FROM trust_bundles ORDER BY version DESC LIMIT 1")
    return TrustStore.open_first(bytes(raw))


@pytest.fixture
async def kid(site: Site, tmp_path: Path) -> str:
    made = await publisher(
        site, "register", "--key", new_key(tmp_path, "one"), "--name", "Team", "--names", "face-*"
    )
    assert made["trust_version"] == 2
    return str(made["kid"])


async def test_a_rotation_names_both_in_the_bundle_and_ends_the_older(
    site: Site, tmp_path: Path, kid: str
) -> None:
    made = await publisher(
        *(site, "rotate", kid[:12], "--key", new_key(tmp_path, "two")), "--overlap-days", "7"
    )
    assert (made["name"], made["names"], made["succeeds"]) == ("Team", ["face-*"], kid)
    named = {one.kid: one for one in (await newest(site)).bundle.publishers}
    assert set(named) == {kid, made["kid"]}
    overlap = named[kid].not_after - (await newest(site)).bundle.issued_at
    assert overlap.days == 7
    old, new = await publisher(site, "list")
    assert (old["succeeded_by"], old["told_in"], old["state"]) == (made["kid"], 3, "valid")
    assert (new["succeeds"], new["told_in"], new["awaits_bundle"]) == (kid, 3, False)
    again = await publisher(site, "rotate", kid, "--key", new_key(tmp_path, "x"), expect=1)
    assert again["code"] == "publisher-exists"


async def test_with_root_keys_elsewhere_a_change_waits_for_its_signatures(
    site: Site, tmp_path: Path, kid: str
) -> None:
    draft = tmp_path / "bundle.json"
    made = await publisher(
        *(site, "change", kid, "--names", "voice", "--reason", "as agreed"),
        *("--draft", str(draft)),
    )
    assert (made["names"], made["published"], made["trust_version"]) == (["voice"], False, 3)
    [one] = await publisher(site, "list")
    assert (one["awaits_bundle"], one["told_in"], one["names"]) == (True, None, ["voice"])
    shown = await site.run("trust", "show")
    assert [line.split(" ")[0] for line in shown["awaited"]] == ["CHANGES"]

    key = str(next(site.root_keys.glob("*.key")))
    await site.run("trust", "sign", str(draft), "--key", key, "--yes")
    assert (await site.run("trust", "publish", str(draft)))["version"] == 3
    assert (await newest(site)).bundle.publishers[0].names == ["voice"]
    [one] = await publisher(site, "list")
    assert (one["awaits_bundle"], one["told_in"]) == (False, 3)


async def test_a_draft_that_cannot_be_written_changes_nothing(
    site: Site, tmp_path: Path, kid: str
) -> None:
    taken = tmp_path / "bundle.json"
    taken.write_text("signatures of days")
    refused = await publisher(
        *(site, "revoke", kid, "--reason", "stolen", "--draft", str(taken)), expect=1
    )
    assert "exists" in refused["message"]
    assert taken.read_text() == "signatures of days"
    [one] = await publisher(site, "list")
    assert (one["state"], one["revoked"]) == ("valid", False)


async def test_a_publisher_is_named_by_a_beginning_that_is_its_own(site: Site, kid: str) -> None:
    for prefix in (kid[:7], "ffffffffffff"):
        refused = await publisher(site, "revoke", prefix, "--reason", "x", expect=1)
        assert refused["code"] == "publisher-not-found"
    done = await publisher(site, "revoke", kid[:8], "--reason", "stolen")
    assert (done["revoked"], done["trust_version"]) == (True, 3)
    assert json.dumps((await newest(site)).bundle.publishers) == "[]"
