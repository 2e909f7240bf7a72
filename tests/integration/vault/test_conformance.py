"""What every key provider does, the same for all: the real SDK against each far end."""

import asyncio
import dataclasses
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tensorguard.vault.catalogue import check_destroys_versions
from tensorguard.vault.errors import (
    Corrupted,
    ImportRefused,
    KeyDisabled,
    KeyMissing,
    KeyPendingDeletion,
    NotSupported,
    PermissionDenied,
    Throttled,
    Unavailable,
    VaultError,
    WrongContext,
)
from tensorguard.vault.provider import WrappedKey
from tensorguard.vault.remote import Limits
from tensorguard.vault.sealed import open_secret, rewrap, seal
from tensorguard.vault.wrapping import wrap_material
from tests.integration.vault.ends import CLOUDS, FAKES, WITH_REAL, End, open_end

KEY = bytes(range(32))
CONTEXT = {"purpose": "dek", "owner": "a" * 64}
all_ends = pytest.mark.parametrize("end", WITH_REAL, indirect=True)
all_fakes = pytest.mark.parametrize("end", list(FAKES), indirect=True)
clouds = pytest.mark.parametrize("end", CLOUDS, indirect=True)


@pytest.fixture
def end(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[End]:
    with open_end(request.param, tmp_path) as end:
        yield end
        for provider in (end.provider, end.other):
            asyncio.run(provider.close())


@all_ends
async def test_what_was_wrapped_unwraps_and_never_stands_in_the_clear(end: End) -> None:
    first = await end.provider.wrap(KEY, CONTEXT)
    second = await end.provider.wrap(KEY, CONTEXT)
    assert await end.provider.unwrap(first, CONTEXT) == KEY
    assert await end.provider.unwrap(second, CONTEXT) == KEY
    assert first.wrapped != second.wrapped
    assert KEY not in first.wrapped
    assert first.provider == end.provider.name
    description = await end.provider.describe()
    assert (first.key_id, first.key_version) == (description.key_id, description.current_version)
    assert description.state == "enabled"


@all_ends
@pytest.mark.parametrize("size", [1, 16, 64])
async def test_keys_of_every_length_that_is_allowed_are_wrapped(end: End, size: int) -> None:
    wrapped = await end.provider.wrap(bytes(size), CONTEXT)
    assert await end.provider.unwrap(wrapped, CONTEXT) == bytes(size)


@all_fakes
@pytest.mark.parametrize("size", [0, 65])
async def test_what_is_no_key_is_not_wrapped(end: End, size: int) -> None:
    with pytest.raises(VaultError, match="are not a key"):
        await end.provider.wrap(bytes(size), CONTEXT)


@all_ends
@pytest.mark.parametrize(
    "context",
    [
        {"purpose": "dek", "owner": "b" * 64},
        {"purpose": "ca-key", "owner": "a" * 64},
        {**CONTEXT, "more": "x"},
        {"purpose": "a" * 64, "owner": "dek"},
    ],
)
async def test_another_context_does_not_unwrap(end: End, context: dict[str, str]) -> None:
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    with pytest.raises(WrongContext):
        await end.provider.unwrap(wrapped, context)


@all_ends
@pytest.mark.parametrize(
    "pair",
    [
        ({"purpose": "a", "owner": "b,c=d"}, {"purpose": "a", "owner": "b", "c": "d"}),
        ({"purpose": "a=b", "owner": "c"}, {"purpose": "a", "owner": "b=c"}),
        ({"purpose": "a", "owner": 'b","x":"y'}, {"purpose": "a", "owner": "b", "x": "y"}),
        ({"purpose": "a", "owner": "e\u0301"}, {"purpose": "a", "owner": "\u00e9"}),
    ],
)
async def test_contexts_that_look_alike_are_not_the_same(
    end: End, pair: tuple[dict[str, str], dict[str, str]]
) -> None:
    wrapped = await end.provider.wrap(KEY, pair[0])
    assert await end.provider.unwrap(wrapped, pair[0]) == KEY
    with pytest.raises(WrongContext):
        await end.provider.unwrap(wrapped, pair[1])


@all_fakes
@pytest.mark.parametrize("context", [{}, {"purpose": "dek"}, {"purpose": "", "owner": "x"}])
async def test_a_context_without_purpose_or_owner_is_refused(
    end: End, context: dict[str, str]
) -> None:
    with pytest.raises(WrongContext):
        await end.provider.wrap(KEY, context)
    with pytest.raises(WrongContext):
        await end.provider.unwrap(await end.provider.wrap(KEY, CONTEXT), context)


@all_ends
async def test_a_key_wrapped_under_another_kek_does_not_unwrap(end: End) -> None:
    wrapped = await end.other.wrap(KEY, CONTEXT)
    with pytest.raises(KeyMissing):
        await end.provider.unwrap(wrapped, CONTEXT)
    mine = await end.provider.describe()
    forged = dataclasses.replace(
        wrapped,
        provider=mine.provider,
        key_id=mine.key_id,
        key_version=mine.current_version,
    )
    with pytest.raises((Corrupted, WrongContext, NotSupported)):
        await end.provider.unwrap(forged, CONTEXT)


@all_ends
async def test_changed_and_cut_off_bytes_do_not_unwrap(end: End) -> None:
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    size = len(wrapped.wrapped)
    for at in (0, 1, size // 2, size - 1):
        raw = bytearray(wrapped.wrapped)
        raw[at] ^= 1
        with pytest.raises((Corrupted, WrongContext, KeyMissing)):
            await end.provider.unwrap(dataclasses.replace(wrapped, wrapped=bytes(raw)), CONTEXT)
    for length in (1, size // 2, size - 1):
        short = dataclasses.replace(wrapped, wrapped=wrapped.wrapped[:length])
        with pytest.raises((Corrupted, WrongContext, KeyMissing)):
            await end.provider.unwrap(short, CONTEXT)


@all_fakes
async def test_a_version_that_never_was_does_not_unwrap(end: End) -> None:
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    unknown = dataclasses.replace(wrapped, key_version="0" * 32)
    if end.provider.name == "gcp":  # the ciphertext itself says its version
        assert await end.provider.unwrap(unknown, CONTEXT) == KEY
        return
    with pytest.raises((KeyMissing, Corrupted)):
        await end.provider.unwrap(unknown, CONTEXT)


@all_fakes
async def test_a_disabled_key_neither_wraps_nor_unwraps_and_does_again_when_enabled(
    end: End,
) -> None:
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    end.disable()
    with pytest.raises(KeyDisabled):
        await end.provider.unwrap(wrapped, CONTEXT)
    with pytest.raises(KeyDisabled):
        await end.provider.wrap(KEY, CONTEXT)
    assert (await end.provider.describe()).state == "disabled"
    end.enable()
    assert await end.provider.unwrap(wrapped, CONTEXT) == KEY


@clouds
async def test_a_key_that_is_being_deleted_says_so(end: End) -> None:
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    end.delete()
    with pytest.raises((KeyPendingDeletion, KeyMissing)):
        await end.provider.unwrap(wrapped, CONTEXT)
    with pytest.raises(KeyPendingDeletion):
        await end.provider.wrap(KEY, CONTEXT)


@all_ends
async def test_after_a_rotation_the_new_version_wraps_and_the_old_one_unwraps(end: End) -> None:
    old = await end.provider.wrap(KEY, CONTEXT)
    rotated = await end.provider.rotate()
    new = await end.provider.wrap(KEY, CONTEXT)
    assert new.key_version == rotated.current_version != old.key_version
    assert {old.key_version, new.key_version} <= set(rotated.versions)
    assert rotated.versions[-1] == new.key_version
    assert await end.provider.unwrap(old, CONTEXT) == KEY
    assert await end.provider.unwrap(new, CONTEXT) == KEY


@all_fakes
async def test_many_rotations_are_all_listed(end: End) -> None:
    first = (await end.provider.describe()).current_version
    made = [(await end.provider.rotate()).current_version for _ in range(5)]
    assert (await end.provider.describe()).versions == (first, *made)


@all_ends
async def test_a_sealed_secret_is_rewrapped_under_the_new_version_and_to_another_kek(
    end: End,
) -> None:
    sealed = await seal(end.provider, b"a secret of some length", CONTEXT)
    await end.provider.rotate()
    newer = await rewrap(end.provider, end.provider, sealed, CONTEXT)
    moved = await rewrap(end.provider, end.other, newer, CONTEXT)
    assert sealed.key_version != newer.key_version
    assert (newer.ciphertext, newer.nonce) == (sealed.ciphertext, sealed.nonce)
    for provider, one in ((end.provider, sealed), (end.provider, newer), (end.other, moved)):
        assert await open_secret(provider, one, CONTEXT) == b"a secret of some length"
        with pytest.raises(WrongContext):
            await open_secret(provider, one, {**CONTEXT, "owner": "c"})


@clouds
@pytest.mark.parametrize("fault", ["throttled", "internal"])
async def test_a_short_refusal_is_tried_again_and_a_long_one_is_told(end: End, fault: str) -> None:
    assert end.faults is not None
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    setattr(end.faults, fault, 2)
    assert await end.provider.unwrap(wrapped, CONTEXT) == KEY
    setattr(end.faults, fault, 1000)
    with pytest.raises(Throttled if fault == "throttled" else Unavailable) as told:
        await end.provider.unwrap(wrapped, CONTEXT)
    assert told.value.retriable
    assert getattr(end.faults, fault) >= 1000 - 3 * 2  # it was not hammered


@clouds
async def test_an_answer_that_does_not_come_ends_in_time(end: End) -> None:
    assert end.faults is not None
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    await end.provider.unwrap(wrapped, CONTEXT)
    end.faults.hanging = 1
    assert await end.provider.unwrap(wrapped, CONTEXT) == KEY  # the next attempt is answered
    end.faults.hanging = 1000
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await end.provider.unwrap(wrapped, CONTEXT)
    assert time.monotonic() - began < 3 * (0.5 + 0.5) + 1


@clouds
async def test_a_corrupted_answer_is_noticed(end: End) -> None:
    assert end.faults is not None
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    end.faults.corrupted = 1
    with pytest.raises(Corrupted):
        await end.provider.unwrap(wrapped, CONTEXT)
    assert await end.provider.unwrap(wrapped, CONTEXT) == KEY


@all_fakes
async def test_without_permission_it_says_so_and_does_not_try_again(end: End) -> None:
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    end.deny()
    with pytest.raises(PermissionDenied):
        await end.provider.describe()
    if end.faults is not None:  # the local provider has read its file already
        calls = end.faults.calls
        with pytest.raises(PermissionDenied):
            await end.provider.unwrap(wrapped, CONTEXT)
        assert end.faults.calls <= calls + 2


@all_fakes
async def test_a_key_that_is_elsewhere_is_missing(end: End) -> None:
    async def wrap_there() -> None:
        elsewhere = end.elsewhere()
        try:
            await elsewhere.wrap(KEY, CONTEXT)
        finally:
            await elsewhere.close()

    with pytest.raises((KeyMissing, PermissionDenied)):
        await wrap_there()


@all_fakes
async def test_no_error_quotes_the_key(end: End) -> None:
    wrapped = await end.provider.wrap(KEY, CONTEXT)
    attempts: list[WrappedKey] = [
        dataclasses.replace(wrapped, wrapped=wrapped.wrapped[:-1]),
        dataclasses.replace(wrapped, key_id="another"),
        wrapped,
    ]
    for one in attempts:
        with pytest.raises(VaultError) as told:
            await end.provider.unwrap(one, {"purpose": "x", "owner": "y"})
        text = f"{told.value!r} {told.value.message} {told.value.hint} {told.value.__cause__!r}"
        assert KEY.hex() not in text
        assert repr(KEY)[2:20] not in text


@all_fakes
async def test_material_that_was_wrapped_offline_becomes_the_version_that_wraps(end: End) -> None:
    provider = end.importing()
    parameters = await provider.get_import_parameters()
    assert parameters.valid_until > datetime.now(UTC)
    material = end.material()
    wrapped = wrap_material(parameters, material)
    assert material not in wrapped
    end_of = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    done = await provider.import_wrapped(wrapped, token=parameters.token, expires_at=end_of)
    assert done.state == "enabled"
    if end.keeps_expiry:
        assert done.expires_at == end_of
    sealed = await provider.wrap(KEY, CONTEXT)
    assert sealed.key_version == done.current_version
    assert await provider.unwrap(sealed, CONTEXT) == KEY
    await provider.close()


@all_fakes
async def test_other_material_is_a_new_version_beside_the_old_one(end: End) -> None:
    provider = end.importing()
    await provider.import_key(end.material())
    old = await provider.wrap(KEY, CONTEXT)
    again = await provider.import_key(end.material())
    new = await provider.wrap(KEY, CONTEXT)
    assert new.key_version == again.current_version != old.key_version
    assert await provider.unwrap(old, CONTEXT) == KEY
    assert await provider.unwrap(new, CONTEXT) == KEY
    await provider.close()


@all_fakes
async def test_material_that_was_wrapped_for_somebody_else_is_refused(end: End) -> None:
    provider, stranger = end.importing(), end.importing()
    parameters = await provider.get_import_parameters()
    junk = bytes(512)
    with pytest.raises((ImportRefused, WrongContext)):
        await provider.import_wrapped(junk, token=parameters.token)
    if stranger is not provider:
        theirs = await stranger.get_import_parameters()
        wrapped = wrap_material(theirs, end.material())
        with pytest.raises((ImportRefused, KeyMissing, PermissionDenied)):
            await provider.import_wrapped(wrapped, token=theirs.token + "AAAA")
        await stranger.close()
    await provider.close()


@pytest.mark.parametrize("end", ["local", "azure", "gcp"], indirect=True)
async def test_one_version_is_disabled_and_the_others_stay(end: End) -> None:
    old = await end.provider.wrap(KEY, CONTEXT)
    await end.provider.rotate()
    new = await end.provider.wrap(KEY, CONTEXT)
    done = await end.provider.set_version_enabled(old.key_version, enabled=False)
    assert done.disabled == (old.key_version,)
    assert done.state == "enabled"
    with pytest.raises(KeyDisabled):
        await end.provider.unwrap(old, CONTEXT)
    assert await end.provider.unwrap(new, CONTEXT) == KEY
    await end.provider.set_version_enabled(old.key_version, enabled=True)
    assert await end.provider.unwrap(old, CONTEXT) == KEY


@pytest.mark.parametrize("end", ["local", "gcp"], indirect=True)
async def test_a_destroyed_version_is_gone(end: End) -> None:
    old = await end.provider.wrap(KEY, CONTEXT)
    await end.provider.rotate()
    check_destroys_versions(end.provider.name)
    done = await end.provider.destroy_version(old.key_version)
    assert old.key_version not in done.versions
    with pytest.raises((KeyMissing, KeyPendingDeletion)):
        await end.provider.unwrap(old, CONTEXT)


@pytest.mark.parametrize("end", ["aws", "azure"], indirect=True)
async def test_what_a_cloud_does_to_whole_keys_only_is_not_done_here(end: End) -> None:
    version = (await end.provider.describe()).current_version
    with pytest.raises(NotSupported):
        await end.provider.destroy_version(version)
    with pytest.raises(NotSupported):  # and nobody is asked to approve it
        check_destroys_versions(end.provider.name)


def test_every_call_has_a_time_and_an_end() -> None:
    limits = Limits()
    assert 0 < limits.connect_s + limits.call_s <= 10
    assert limits.attempts <= 5
    assert limits.breaks_after <= 10
