"""Registering publishers where the root keys are: table and trust bundle change together."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tensorguard.pki.bundle import TrustStore, accept_next
from tensorguard.services.trust.trust import get_latest_bundle
from tensorguard.store.publishers import list_publishers
from tensorguard.tgsp.keys import compute_kid
from tests.integration.deployments.builders import Platform, public_pem
from tests.postgres import Database


@dataclass
class Finished:
    code: int
    out: str
    err: str


@dataclass
class Operator:
    """A person at the command line of the machine that has the root keys."""

    platform: Platform
    database_url: str

    async def publisher(self, *arguments: str, root_keys: Path | None = None) -> Finished:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tensorguard.cli", "admin", "publisher", *arguments),
            *("--root-keys", str(root_keys or self.platform.folder / "root"), "--json"),
            env=os.environ | {"TG_DATABASE_URL": self.database_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Finished(process.returncode or 0, out.decode(), err.decode())

    async def bundle(self) -> TrustStore:
        async with self.platform.sessions() as session:
            return await get_latest_bundle(session)

    async def registered(self) -> int:
        async with self.platform.sessions() as session:
            return len(await list_publishers(session))


@pytest.fixture
def operator(platform: Platform, fresh_database: Database) -> Operator:
    return Operator(platform, fresh_database.app_url)


@pytest.fixture
def key_file(tmp_path: Path) -> tuple[str, Path]:
    """A publisher's key id, and the file with its public key."""
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "publisher.pub"
    path.write_text(public_pem(key))
    return compute_kid(key.public_key()).hex(), path


async def test_agents_can_follow_to_the_bundle_that_names_the_publisher(
    operator: Operator, key_file: tuple[str, Path]
) -> None:
    kid, path = key_file
    first = await operator.bundle()
    done = await operator.publisher(
        "register", "--key", str(path), "--name", "Team", "--names", "face-*"
    )
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert (facts["kid"], facts["names"], facts["trust_version"]) == (kid, ["face-*"], 3)
    second = await operator.bundle()
    assert accept_next(first, second.envelope, second.bundle.issued_at) == second
    assert kid in {one.kid for one in second.publishers(second.bundle.issued_at)}

    revoked = await operator.publisher("revoke", kid, "--reason", "stolen")
    assert json.loads(revoked.out)["trust_version"] == 4
    third = await operator.bundle()
    assert kid not in {one.kid for one in third.publishers(third.bundle.issued_at)}


async def test_without_the_root_keys_nothing_changes(
    operator: Operator, key_file: tuple[str, Path], tmp_path: Path
) -> None:
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    done = await operator.publisher(
        "register", "--key", str(key_file[1]), "--name", "Team", root_keys=empty
    )
    assert done.code == 1
    assert json.loads(done.err)["error"]["code"] == "root-keys-unusable"
    assert (await operator.bundle()).version == 2
    assert await operator.registered() == 1


async def test_a_file_that_is_no_publisher_key_is_refused_and_nothing_changes(
    operator: Operator, tmp_path: Path
) -> None:
    (tmp_path / "bad.pub").write_text("no key")
    done = await operator.publisher(
        "register", "--key", str(tmp_path / "bad.pub"), "--name", "Team"
    )
    assert json.loads(done.err)["error"]["code"] == "publisher-invalid"
    assert (await operator.bundle()).version == 2
