"""Packages: verified before visible, stored once, and nothing left of what is refused."""

import asyncio
import errno
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.rollouts.errors import BadSelector
from tensorguard.services.deployments import packages, releases
from tensorguard.services.deployments.release_errors import (
    BadPublisher,
    BadRelease,
    PackageSeqTaken,
    PackageUnusable,
    PackageVersionTaken,
    PublisherExists,
    ReleaseExists,
)
from tensorguard.services.deployments.upload_at_once import upload_at_once
from tensorguard.services.keys.sealed_rows import open_stored
from tensorguard.services.trust import publishers
from tensorguard.store import tables
from tensorguard.store.package_store import FileTooLarge, StoreFull, store_key
from tensorguard.tgsp import errors as tgsp
from tensorguard.tgsp.container import encode_header
from tensorguard.tgsp.grants import GRANT_ALG, Grant, encode_grants, seal_grant
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.opener import open_package
from tensorguard.tgsp.reader import read_header
from tests.integration.deployments.builders import (
    OPERATOR,
    Platform,
    count_rows,
    public_pem,
    read_file,
    target,
)


def stored_files(platform: Platform) -> list[Path]:
    return [path for path in (platform.folder / "packages").rglob("*") if path.is_file()]


async def assert_nothing_stored(platform: Platform) -> None:
    assert stored_files(platform) == []
    async with platform.sessions() as session:
        assert await count_rows(session, tables.packages) == 0
        secret = tables.secrets.c
        query = sa.select(sa.func.count()).where(secret.purpose == "dek")
        assert (await session.execute(query)).scalar() == 0
    assert set(await platform.events("package")) <= {"package.refused"}


async def test_a_good_package_is_stored_whole_with_its_key_sealed(platform: Platform) -> None:
    content = secrets.token_bytes(40_000)
    path = platform.build_package(name="face", version="2.0.0-rc.1", seq=7, content=content)
    uploaded = await platform.upload(path)
    package = uploaded.package
    assert uploaded.created
    assert (package.name, package.version, package.seq) == ("face", "2.0.0-rc.1", 7)
    (stored,) = stored_files(platform)
    assert stored == platform.files.path(package.store_key)
    assert stored.read_bytes() == path.read_bytes()
    assert stored.stat().st_mode & 0o777 == 0o600
    async with platform.sessions() as session:
        dek = await open_stored(session, platform.kek, purpose="dek", owner=package.digest.hex())
    opened = open_package(
        stored,
        platform.folder / "opened",
        publishers=[await signing_key(platform)],
        now=platform.clock.now,
        unwrap=lambda header: dek,
    )
    assert (opened.directory / "model.onnx").read_bytes() == content
    assert await platform.events("package") == ["package.uploaded"]


async def signing_key(platform: Platform) -> Any:
    async with platform.sessions() as session:
        (key,) = await packages.list_signing_keys(session)
    return key


async def test_the_same_package_again_is_the_same_row(platform: Platform) -> None:
    path = platform.build_package()
    first = await platform.upload(path)
    second = await platform.upload(path)
    assert (first.created, second.created) == (True, False)
    assert first.package == second.package
    assert len(stored_files(platform)) == 1
    assert await platform.events("package") == ["package.uploaded"]


async def test_many_uploads_of_one_package_at_once_store_it_once(platform: Platform) -> None:
    path = platform.build_package()
    uploads = await asyncio.gather(*(platform.upload(path) for _ in range(4)))
    assert sorted(one.created for one in uploads) == [False, False, False, True]
    assert len(stored_files(platform)) == 1


def broken(platform: Platform, how: str) -> Path:
    """Build a package that has to be refused."""
    stranger = Ed25519PrivateKey.generate()
    now = int(platform.clock.now.timestamp())
    match how:
        case "stranger":
            return platform.build_package(publisher=stranger)
        case "not for us":
            return platform.build_package(recipient=X25519PrivateKey.generate().public_key())
        case "expired":
            return platform.build_package(not_before=now - 100, created=now, not_after=now - 1)
        case "not yet valid":
            return platform.build_package(not_before=now + 100)
        case "bad selector":
            return platform.build_package(target=target(selector="gpu=" + "-"))
        case "seq too large":
            return platform.build_package(seq=2**63)
    path = platform.build_package()
    data = bytearray(path.read_bytes())
    match how:
        case "tampered payload":
            data[-1] ^= 1
        case "tampered manifest":
            data[60] ^= 1
        case "truncated":
            del data[-5:]
        case "appended":
            data += b"x"
        case "empty":
            data.clear()
        case "not a package":
            data = bytearray(b"PK\x03\x04" + bytes(200))
        case "wrong key granted":
            data = bytearray(regrant(platform, path))
        case _:
            raise AssertionError(how)
    path.write_bytes(data)
    return path


def regrant(platform: Platform, path: Path) -> bytes:
    """Give a package a grant to us that holds another key than its payload is under."""
    data = path.read_bytes()
    with path.open("rb") as file:
        header = read_header(file, len(data))
    recipient = platform.keyring.recipient_key.public_key()
    sealed = seal_grant(
        secrets.token_bytes(32), recipient=recipient, manifest_digest=header.digest, exp=0
    )
    grant = Grant(kid=compute_kid(recipient), alg=GRANT_ALG, exp=0, sealed=sealed)
    head = encode_header(
        header.manifest_bytes,
        header.sigs_bytes,
        encode_grants([grant]),
        payload_length=header.payload_length,
    )
    return head + data[header.payload_offset :]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("stranger", tgsp.UnknownPublisher),
        ("not for us", tgsp.NoGrant),
        ("expired", tgsp.Expired),
        ("not yet valid", tgsp.NotYetValid),
        ("bad selector", BadSelector),
        ("seq too large", PackageUnusable),
        ("tampered payload", tgsp.CiphertextMismatch),
        ("tampered manifest", tgsp.BadSignature),
        ("truncated", tgsp.Truncated),
        ("appended", tgsp.TrailingBytes),
        ("empty", tgsp.NotAPackage),
        ("not a package", tgsp.NotAPackage),
        ("wrong key granted", tgsp.WrongDek),
    ],
)
async def test_a_bad_package_leaves_nothing(
    platform: Platform, how: str, error: type[Exception]
) -> None:
    path = broken(platform, how)
    with pytest.raises(error):
        await platform.upload(path)
    await assert_nothing_stored(platform)


async def test_a_name_that_the_publisher_may_not_sign_is_refused(platform: Platform) -> None:
    key = Ed25519PrivateKey.generate()
    await platform.register_publisher(key, "face-*", "voice")
    await platform.upload(platform.build_package(name="face-7", publisher=key))
    await platform.upload(platform.build_package(name="voice", publisher=key))
    for name in ("voice-2", "fac", "model"):
        with pytest.raises(tgsp.PublisherNotAllowed):
            await platform.upload(platform.build_package(name=name, publisher=key))


async def test_a_publisher_who_is_revoked_or_has_expired_signs_nothing(platform: Platform) -> None:
    path = platform.build_package(not_after=int((platform.clock.now + timedelta(999)).timestamp()))
    kid = compute_kid(platform.publisher.public_key()).hex()
    now = platform.clock.now
    platform.clock.advance(days=366)
    with pytest.raises(tgsp.PublisherExpired):
        await platform.upload(path)
    platform.clock.now = now
    await platform.do(publishers.revoke_publisher, kid, reason="stolen", by=OPERATOR, now=now)
    with pytest.raises(tgsp.UnknownPublisher):
        await platform.upload(path)
    await assert_nothing_stored(platform)


async def test_seq_and_version_are_used_once_a_name(platform: Platform) -> None:
    await platform.upload(platform.build_package(seq=3))
    with pytest.raises(PackageSeqTaken):
        await platform.upload(platform.build_package(seq=3, version="9.9.9"))
    with pytest.raises(PackageVersionTaken):
        await platform.upload(platform.build_package(seq=4, version="1.3.0"))
    await platform.upload(platform.build_package(name="other", seq=3))
    assert len(stored_files(platform)) == 2


async def test_a_file_that_a_failed_commit_left_is_replaced_by_the_next_upload(
    platform: Platform,
) -> None:
    path = platform.build_package()
    with path.open("rb") as file:
        digest = read_header(file, path.stat().st_size).digest
    key = store_key(digest)
    platform.files.path(key).parent.mkdir()
    platform.files.path(key).write_bytes(b"half of it")
    uploaded = await platform.upload(path)
    assert uploaded.created
    assert platform.files.path(key).read_bytes() == path.read_bytes()


async def upload_stream(platform: Platform, blocks: AsyncIterator[bytes], **limits: int) -> None:
    receiver = platform.receiver(**limits)
    await upload_at_once(receiver, platform.verifier(), blocks, length_bytes=None, by=OPERATOR)


async def test_an_upload_that_is_too_large_or_breaks_off_leaves_nothing(platform: Platform) -> None:
    path = platform.build_package()
    with pytest.raises(FileTooLarge):
        await upload_stream(platform, read_file(path), limit_bytes=30_000)

    async def breaks_off() -> AsyncIterator[bytes]:
        yield path.read_bytes()[:1000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await upload_stream(platform, breaks_off())
    await assert_nothing_stored(platform)
    async with platform.sessions() as session:
        assert await count_rows(session, tables.package_uploads) == 0


async def test_a_full_disk_is_said_and_leaves_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorguard.store.package_files.os.pwrite", full)
    with pytest.raises(StoreFull):
        await platform.upload(platform.build_package())
    await assert_nothing_stored(platform)


async def test_files_that_no_row_knows_are_swept_at_the_start(platform: Platform) -> None:
    uploaded = await platform.upload(platform.build_package())
    (platform.folder / "packages" / "incoming" / "left-over").write_bytes(b"x")
    opened = await platform.receiver().begin(length_bytes=10, by=OPERATOR)
    await platform.verifier().sweep_strays()
    left = {platform.folder / "packages" / "incoming" / str(opened.id)}
    assert set(stored_files(platform)) == left | {platform.files.path(uploaded.package.store_key)}


async def test_a_refusal_is_written_down_with_its_reason(platform: Platform) -> None:
    path = broken(platform, "tampered payload")
    with pytest.raises(tgsp.CiphertextMismatch):
        await platform.upload(path)
    event = tables.ledger_events.c
    async with platform.sessions() as session:
        query = sa.select(event.entry).where(event.type == "package.refused")
        details = json.loads((await session.execute(query)).scalar_one())["details"]
    assert details["reason"] == "ciphertext-mismatch"
    assert details["size_bytes"] == path.stat().st_size
    assert details["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_release_stands_for_one_package_and_is_made_once(platform: Platform) -> None:
    uploaded = await platform.upload(platform.build_package())
    how = {"package_digest": uploaded.package.digest, "by": OPERATOR, "now": platform.clock.now}
    release = await platform.do(releases.create_release, **how)
    assert (release.name, release.version) == ("model", "1.1.0")
    with pytest.raises(ReleaseExists):
        await platform.do(releases.create_release, **how)
    named = await platform.do(
        releases.create_release, name="Hospital model", version="3.0.0", **how
    )
    assert named.package_digest == uploaded.package.digest
    for bad in ({"name": ""}, {"name": "x\ny"}, {"version": "1"}, {"notes": "x" * 4001}):
        with pytest.raises(BadRelease):
            await platform.do(releases.create_release, **(how | bad))


@pytest.mark.parametrize(
    "bad",
    [
        {"public_pem": "no key"},
        {"public_pem": ""},
        {"names": []},
        {"names": ["Model"]},
        {"names": ["a*b"]},
        {"names": ["x"] * 101},
        {"name": ""},
        {"not_after": timedelta(0)},
    ],
)
async def test_a_bad_publisher_is_not_registered(platform: Platform, bad: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "name": "Team",
        "public_pem": public_pem(Ed25519PrivateKey.generate()),
        "names": ["model"],
        "not_after": timedelta(days=1),
    }
    given = good | bad
    given["not_after"] += platform.clock.now
    with pytest.raises(BadPublisher):
        await platform.do(
            publishers.register_publisher, by=OPERATOR, now=platform.clock.now, **given
        )


async def test_a_key_is_registered_once(platform: Platform) -> None:
    with pytest.raises(PublisherExists):
        await platform.register_publisher(platform.publisher)
