"""What key release remembers: bounded, for minutes, wiped, and one opening at a time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tensorguard.services.keys.dek_cache import DEK_LIFETIME, DekCache, DekPlace
from tensorguard.vault.errors import KeyDisabled, Throttled, VaultError
from tensorguard.vault.secret_memory import SecretMemory

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MOMENT = timedelta(seconds=20)


def place(number: int) -> DekPlace:
    return DekPlace(number.to_bytes(32, "big"))


class Opening:
    def __init__(self) -> None:
        self.calls = 0
        self.error: VaultError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, place: DekPlace) -> bytes:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return place.digest


async def test_a_dek_is_opened_once_in_its_lifetime() -> None:
    cache, opening = DekCache(), Opening()
    for second in (0, 1, DEK_LIFETIME.total_seconds() - 1):
        at = NOW + timedelta(seconds=second)
        assert await cache.get(place(1), opening, at) == place(1).digest
    assert opening.calls == 1
    await cache.get(place(1), opening, NOW + DEK_LIFETIME)
    assert opening.calls == 2


async def test_it_holds_no_more_than_it_may_and_lets_the_oldest_go() -> None:
    cache, opening = DekCache(max_entries=3), Opening()
    for number in range(10):
        await cache.get(place(number), opening, NOW)
    assert cache.find(place(9), NOW) == place(9).digest
    assert cache.find(place(6), NOW) is None


async def test_a_refusal_is_remembered_for_seconds_and_not_for_ever() -> None:
    cache, opening = DekCache(), Opening()
    opening.error = KeyDisabled("no")
    for _ in range(500):
        with pytest.raises(KeyDisabled):
            await cache.get(place(1), opening, NOW)
    assert opening.calls == 1
    opening.error = None
    assert await cache.get(place(1), opening, NOW + MOMENT) == place(1).digest


async def test_what_takes_long_goes_on_behind_and_is_opened_once() -> None:
    cache, opening = DekCache(), Opening()
    opening.gate.clear()
    for _ in range(3):
        await cache.prepare([place(1), place(1)], opening, NOW, most_s=0.01)
        assert cache.is_opening(place(1))
    assert opening.calls == 1
    opening.gate.set()
    await asyncio.gather(*cache._opening.values())
    assert cache.find(place(1), NOW) == place(1).digest


async def test_different_deks_are_opened_at_the_same_time_and_fail_apart() -> None:
    cache, opening = DekCache(), Opening()

    async def open_dek(where: DekPlace) -> bytes:
        if where == place(2):
            raise Throttled("slow down")
        return await opening(where)

    await cache.prepare([place(1), place(2), place(3)], open_dek, NOW, most_s=1)
    assert cache.find(place(1), NOW) == place(1).digest
    assert cache.find(place(3), NOW) == place(3).digest
    with pytest.raises(Throttled):
        cache.find(place(2), NOW)


async def test_what_is_let_go_is_wiped() -> None:
    cache, opening = DekCache(max_entries=2), Opening()
    for number in range(1, 6):
        await cache.get(place(number), opening, NOW)
    cache.find(place(5), NOW + DEK_LIFETIME)
    assert bytes(cache._memory._memory) == bytes(len(cache._memory._memory))
    await cache.get(place(1), opening, NOW)
    await cache.close()
    assert bytes(cache._memory._memory) == bytes(len(cache._memory._memory))


def test_memory_for_keys_has_slots_of_one_size_and_an_end() -> None:
    memory = SecretMemory(2, 4)
    first, second = memory.put(b"aaaa"), memory.put(b"bbbb")
    assert (memory.read(first), memory.read(second)) == (b"aaaa", b"bbbb")
    with pytest.raises(MemoryError):
        memory.put(b"cccc")
    with pytest.raises(ValueError, match="4 bytes"):
        memory.put(b"ccc")
    memory.wipe(first)
    assert memory.read(first) == bytes(4)
    assert memory.read(memory.put(b"dddd")) == b"dddd"
