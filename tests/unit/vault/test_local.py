import asyncio
import base64
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tensorguard.vault.errors import (
    Corrupted,
    ImportRefused,
    KeyDisabled,
    KeyMissing,
    KeyVersionInUse,
    PermissionDenied,
    Unavailable,
    VaultError,
    WrongContext,
)
from tensorguard.vault.local import LocalKeyProvider
from tensorguard.vault.provider import WrappedKey
from tensorguard.vault.wrapping import wrap_material

CONTEXT = {"purpose": "ca-key", "owner": "platform"}
KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "kek.json"


def disable_first_version(path: Path) -> None:
    content = msgspec.json.decode(path.read_bytes())
    content["versions"][0]["state"] = "disabled"
    path.write_bytes(msgspec.json.encode(content))


def exchange_keys(path: Path) -> None:
    content = read(path)
    first, second = content["versions"]
    first["key"], second["key"] = second["key"], first["key"]
    path.write_bytes(msgspec.json.encode(content))


def read(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_wrapped_key_unwraps_in_another_process(path: Path) -> None:
    wrapped = await LocalKeyProvider.open_or_create(path).wrap(KEY, CONTEXT)
    assert KEY not in wrapped.wrapped
    assert await LocalKeyProvider.open(path).unwrap(wrapped, CONTEXT) == KEY


async def test_the_same_key_never_wraps_to_the_same_bytes(path: Path) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    assert await provider.wrap(KEY, CONTEXT) != await provider.wrap(KEY, CONTEXT)


def test_the_file_is_made_readable_by_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        LocalKeyProvider.open_or_create(path)
    finally:
        os.umask(before)
    assert mode_of(path) == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["kek.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_file_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    LocalKeyProvider.open_or_create(path)
    path.chmod(mode)
    with pytest.raises(PermissionDenied, match=f"{mode:04o}"):
        LocalKeyProvider.open_or_create(path)


def test_a_file_that_only_its_owner_reads_may_be_read_only(path: Path) -> None:
    LocalKeyProvider.open_or_create(path)
    path.chmod(0o400)
    LocalKeyProvider.open(path)


def test_a_missing_file_is_not_made_where_one_is_expected(path: Path) -> None:
    with pytest.raises(KeyMissing):
        LocalKeyProvider.open(path)
    assert not path.exists()


def test_a_directory_or_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VaultError):
        LocalKeyProvider.open_or_create(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable):
        LocalKeyProvider.open_or_create(tmp_path / "file" / "kek")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"not json SECRET",
        b'{"v":2,"key_id":"k","versions":[]}',
        b'{"v":1,"key_id":"k","versions":[]}',
        b'{"v":1,"key_id":"k","versions":[{"version":1,"key":"U0VDUkVU","created_at":"2026-01-01T00:00:00Z"}]}',
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(path: Path, raw: bytes) -> None:
    LocalKeyProvider.open_or_create(path)
    path.write_bytes(raw)
    with pytest.raises(Corrupted) as refusal:
        LocalKeyProvider.open_or_create(path)
    assert "SECRET" not in str(refusal.value)
    assert "U0VD" not in str(refusal.value)


def _create(path: Path) -> str:
    return asyncio.run(LocalKeyProvider.open_or_create(path).describe()).key_id


def test_of_several_processes_that_create_the_file_one_wins_for_all(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert len(set(pool.map(_create, [path] * 8))) == 1
    assert [one.name for one in path.parent.iterdir()] == ["kek.json"]


@pytest.mark.parametrize(
    "context",
    [
        {"purpose": "ca-key", "owner": "other"},
        {"purpose": "other", "owner": "platform"},
        {"purpose": "ca-key", "owner": "platform", "more": "x"},
    ],
)
async def test_another_context_does_not_unwrap(path: Path, context: dict[str, str]) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    wrapped = await provider.wrap(KEY, CONTEXT)
    with pytest.raises(WrongContext):
        await provider.unwrap(wrapped, context)


async def test_every_flipped_bit_of_a_wrapped_key_is_noticed(path: Path) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    wrapped = await provider.wrap(KEY, CONTEXT)
    for at in range(len(wrapped.wrapped) * 8):
        raw = bytearray(wrapped.wrapped)
        raw[at // 8] ^= 1 << at % 8
        changed = WrappedKey(wrapped.provider, wrapped.key_id, wrapped.key_version, bytes(raw))
        with pytest.raises(WrongContext):
            await provider.unwrap(changed, CONTEXT)


async def test_a_cut_off_wrapped_key_is_corrupted(path: Path) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    wrapped = await provider.wrap(KEY, CONTEXT)
    for length in range(29):
        short = WrappedKey("local", wrapped.key_id, "1", wrapped.wrapped[:length])
        with pytest.raises(Corrupted):
            await provider.unwrap(short, CONTEXT)


async def test_after_a_rotation_new_wraps_use_the_new_version_and_old_ones_unwrap(
    path: Path,
) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    old = await provider.wrap(KEY, CONTEXT)

    description = await provider.rotate()

    new = await provider.wrap(KEY, CONTEXT)
    assert (old.key_version, new.key_version) == ("1", "2")
    assert description.versions == ("1", "2")
    assert description.current_version == "2"
    for reader in provider, LocalKeyProvider.open(path):
        assert await reader.unwrap(old, CONTEXT) == KEY
        assert await reader.unwrap(new, CONTEXT) == KEY
    assert mode_of(path) == 0o600


async def test_a_process_that_opened_the_file_before_a_rotation_unwraps_the_new_version(
    path: Path,
) -> None:
    early = LocalKeyProvider.open_or_create(path)
    other = LocalKeyProvider.open(path)
    await other.rotate()
    assert await early.unwrap(await other.wrap(KEY, CONTEXT), CONTEXT) == KEY


async def test_rotations_at_the_same_time_lose_no_version(path: Path) -> None:
    providers = [LocalKeyProvider.open_or_create(path) for _ in range(8)]
    await asyncio.gather(*(provider.rotate() for provider in providers))
    final = await LocalKeyProvider.open(path).describe()
    assert final.versions == tuple(str(number) for number in range(1, 10))


async def test_imported_material_wraps_from_then_on(path: Path) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    assert (await provider.import_key(b"K" * 32)).current_version == "2"
    wrapped = await provider.wrap(KEY, CONTEXT)
    assert await LocalKeyProvider.open(path).unwrap(wrapped, CONTEXT) == KEY


@pytest.mark.parametrize("material", [b"", b"k" * 31, b"k" * 33])
async def test_material_of_another_length_is_not_imported(path: Path, material: bytes) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    with pytest.raises(VaultError, match="32 bytes"):
        await provider.import_key(material)
    assert (await provider.describe()).versions == ("1",)


async def test_another_key_or_version_is_missing(path: Path, tmp_path: Path) -> None:
    wrapped = await LocalKeyProvider.open_or_create(path).wrap(KEY, CONTEXT)
    with pytest.raises(KeyMissing):
        await LocalKeyProvider.open_or_create(tmp_path / "other").unwrap(wrapped, CONTEXT)
    unknown = WrappedKey("local", wrapped.key_id, "7", wrapped.wrapped)
    with pytest.raises(KeyMissing):
        await LocalKeyProvider.open(path).unwrap(unknown, CONTEXT)


async def test_a_disabled_version_neither_wraps_nor_unwraps(path: Path) -> None:
    wrapped = await LocalKeyProvider.open_or_create(path).wrap(KEY, CONTEXT)
    disable_first_version(path)

    provider = LocalKeyProvider.open(path)

    assert (await provider.describe()).state == "disabled"
    with pytest.raises(KeyDisabled):
        await provider.wrap(KEY, CONTEXT)
    with pytest.raises(KeyDisabled):
        await provider.unwrap(wrapped, CONTEXT)


@pytest.mark.parametrize("size", [0, 65])
async def test_only_keys_are_wrapped(path: Path, size: int) -> None:
    with pytest.raises(VaultError):
        await LocalKeyProvider.open_or_create(path).wrap(bytes(size), CONTEXT)


def test_the_time_of_a_version_is_that_of_the_injected_clock(path: Path) -> None:
    LocalKeyProvider.open_or_create(path, lambda: datetime(2026, 1, 2, tzinfo=UTC))
    assert b'"2026-01-02T00:00:00Z"' in path.read_bytes()


async def test_a_file_under_a_passphrase_holds_no_kek_in_the_clear(path: Path) -> None:
    provider = LocalKeyProvider.open_or_create(path, passphrase=b"correct horse\n")
    wrapped = await provider.wrap(KEY, CONTEXT)
    await provider.import_key(b"K" * 32)
    raw = read(path)
    assert base64.b64encode(b"K" * 32).decode() not in str(raw)
    assert raw["protection"]["memory_kib"] >= 64 * 1024
    reopened = LocalKeyProvider.open(path, passphrase=b"correct horse")
    assert await reopened.unwrap(wrapped, CONTEXT) == KEY
    assert (await reopened.describe()).versions == ("1", "2")


@pytest.mark.parametrize("passphrase", [None, b"wrong"])
def test_a_file_under_a_passphrase_opens_with_no_other(
    path: Path, passphrase: bytes | None
) -> None:
    LocalKeyProvider.open_or_create(path, passphrase=b"correct horse")
    with pytest.raises(PermissionDenied, match="passphrase"):
        LocalKeyProvider.open(path, passphrase=passphrase)


async def test_keys_exchanged_in_a_protected_file_do_not_open(path: Path) -> None:
    provider = LocalKeyProvider.open_or_create(path, passphrase=b"correct horse")
    await provider.rotate()
    exchange_keys(path)
    with pytest.raises(PermissionDenied):
        LocalKeyProvider.open(path, passphrase=b"correct horse")


async def test_material_that_has_expired_opens_nothing_until_it_is_imported_again(
    path: Path,
) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    provider = LocalKeyProvider.open_or_create(path, lambda: now[0])
    end = datetime(2026, 1, 2, tzinfo=UTC)
    await provider.import_key(b"K" * 32, expires_at=end)
    wrapped = await provider.wrap(KEY, CONTEXT)
    assert (await provider.describe()).expires_at == end
    now[0] = end
    with pytest.raises(KeyMissing, match="expired"):
        await provider.unwrap(wrapped, CONTEXT)
    with pytest.raises(KeyMissing, match="expired"):
        await provider.wrap(KEY, CONTEXT)


async def test_import_parameters_serve_once_and_for_a_day(path: Path) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    provider = LocalKeyProvider.open_or_create(path, lambda: now[0])
    parameters = await provider.get_import_parameters()
    wrapped = wrap_material(parameters, b"K" * 32)
    assert mode_of(path.with_name("kek.json.import")) == 0o600
    await provider.import_wrapped(wrapped, token=parameters.token)
    with pytest.raises(ImportRefused):
        await provider.import_wrapped(wrapped, token=parameters.token)
    late = await provider.get_import_parameters()
    now[0] += timedelta(days=1)
    with pytest.raises(ImportRefused, match="expired"):
        await provider.import_wrapped(wrap_material(late, b"L" * 32), token=late.token)
    assert (await provider.describe()).versions == ("1", "2")


async def test_the_version_that_wraps_is_not_destroyed(path: Path) -> None:
    provider = LocalKeyProvider.open_or_create(path)
    with pytest.raises(KeyVersionInUse):
        await provider.destroy_version("1")
