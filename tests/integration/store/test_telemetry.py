"""Telemetry at every resolution: both engines give what the heartbeats say.

Native partitions and TimescaleDB's own code, which runs in Node; a whole TimescaleDB as well where
TG_TEST_TIMESCALE_URL names one.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from tensorguard.store.maintenance import configure
from tensorguard.store.resolutions import ROLLUPS, Resolution
from tests.integration.store.conftest import ENGINES
from tests.integration.store.keepers import (
    Beat,
    Keeper,
    NativeKeeper,
    TimescaleKeeper,
    insert,
    telemetry,
    timescale_in_node,
)
from tests.postgres import Server

NOW = datetime.now(UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LATE = 10 * DAY
STEPS = {
    Resolution.RAW: [timedelta(seconds=7), HOUR],
    Resolution.MINUTE: [MINUTE, 42 * MINUTE],
    Resolution.HOUR: [HOUR, 5 * HOUR],
    Resolution.DAY: [DAY, 3 * DAY],
}
# One Node for all tests of it.
pytestmark = pytest.mark.xdist_group("timescale-in-node")


@pytest.fixture(scope="module")
def in_node() -> Iterator[TimescaleKeeper]:
    with timescale_in_node() as keeper:
        yield keeper


@pytest.fixture(scope="module", params=[*ENGINES, "in-node"])
def keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    """A database with room for twelve days; one for all tests, each with its own agents."""
    if request.param == "in-node":
        keeper: Keeper = request.getfixturevalue("in_node")
        configure(keeper.owner_url, late_heartbeats=LATE)
        yield keeper
        return
    server: Server = request.getfixturevalue(f"{request.param}_server")
    database = server.clone(f"tg_test_{uuid4().hex[:8]}")
    kind = NativeKeeper if request.param == "native" else TimescaleKeeper
    keeper = kind(database.owner_url, database.app_url)
    configure(keeper.owner_url, late_heartbeats=LATE)
    keeper.cover(NOW - 12 * DAY)
    yield keeper
    server.drop(database.name)


def beats_of(agent_id: UUID, since: datetime, until: datetime, every: timedelta) -> list[Beat]:
    """Heartbeats at uneven times with figures of which float4 loses nothing."""
    source = random.Random(agent_id.int)
    warm = source.random() < 0.5
    beats = []
    at = since
    while at < until:
        figures = [source.randrange(0, 801) / 8 for _ in range(4)]
        status = source.choice(["ok", "ok", "ok", "degraded", "error"])
        temperature_c = figures[3] if warm and source.random() < 0.9 else None
        beats.append(Beat(agent_id, at, status, *figures[:3], temperature_c))
        at += every * source.uniform(0.5, 1.5)
    return beats


def expected(
    beats: list[Beat], since: datetime, until: datetime, step: timedelta
) -> list[dict[str, Any]]:
    """What telemetry is, by definition."""
    steps: dict[int, list[Beat]] = {}
    for beat in beats:
        if since <= beat.received_at < until:
            steps.setdefault((beat.received_at - since) // step, []).append(beat)
    points = []
    for number, within in sorted(steps.items()):
        point: dict[str, Any] = {
            "at": since + number * step,
            "heartbeats": len(within),
            "degraded": sum(beat.status == "degraded" for beat in within),
            "errors": sum(beat.status == "error" for beat in within),
        }
        for name in ("cpu_percent", "memory_percent", "disk_percent", "temperature_c"):
            figures = [value for beat in within if (value := getattr(beat, name)) is not None]
            point[name] = _mean(figures) if figures else None
            point[f"{name}_min"] = min(figures, default=None)
            point[f"{name}_max"] = max(figures, default=None)
        points.append(point)
    return points


def _mean(figures: list[float]) -> Decimal:
    mean = Decimal(f"{sum(figures) / len(figures):.15g}")
    return mean.quantize(Decimal("0.01"), ROUND_HALF_UP)


async def check(keeper: Keeper, beats: list[Beat], resolutions: Any = Resolution) -> None:
    """Compare all that an agent's telemetry can be asked for."""
    agent_id = beats[0].agent_id
    for resolution in resolutions:
        since = resolution.floor(NOW - 11 * DAY)
        until = resolution.ceil(datetime.now(UTC))
        for step in STEPS[resolution]:
            points = await telemetry(keeper, agent_id, resolution, since, until, step)
            assert points == expected(beats, since, until, step), (resolution, step)


async def test_every_resolution_says_what_the_heartbeats_say(keeper: Keeper) -> None:
    sparse = beats_of(uuid4(), NOW - 8 * DAY, NOW, timedelta(minutes=31))
    dense = beats_of(uuid4(), NOW - 9 * HOUR, NOW - 7 * HOUR, timedelta(seconds=11))
    insert(keeper, sparse + dense)
    keeper.roll_up()
    await check(keeper, sparse)
    await check(keeper, dense)


async def test_what_is_not_rolled_up_yet_is_told_all_the_same(keeper: Keeper) -> None:
    keeper.roll_up()
    now = datetime.now(UTC)  # that of the module may be minutes ago
    beats = beats_of(uuid4(), now - 4 * MINUTE, now, timedelta(seconds=10))
    insert(keeper, beats)
    await check(keeper, beats)


async def test_rolling_up_again_changes_nothing(keeper: Keeper) -> None:
    beats = beats_of(uuid4(), NOW - DAY, NOW, timedelta(minutes=13))
    insert(keeper, beats)
    for _ in range(2):
        keeper.roll_up()
        await check(keeper, beats)


async def test_late_heartbeats_are_rolled_up_the_next_time(keeper: Keeper) -> None:
    agent_id = uuid4()
    beats = beats_of(agent_id, NOW - 3 * DAY, NOW, timedelta(minutes=27))
    insert(keeper, beats)
    keeper.roll_up()
    late = [*beats_of(agent_id, NOW - 3 * DAY - HOUR, NOW - 2 * DAY, timedelta(minutes=17))]
    insert(keeper, late)
    keeper.roll_up()
    await check(keeper, beats + late)


async def test_heartbeats_that_come_too_late_are_not_rolled_up(keeper: Keeper) -> None:
    agent_id = uuid4()
    beats = beats_of(agent_id, NOW - DAY, NOW, timedelta(minutes=27))
    insert(keeper, beats)
    keeper.roll_up()
    too_late = beats_of(agent_id, NOW - LATE - 20 * HOUR, NOW - LATE - 2 * HOUR, HOUR)
    insert(keeper, too_late)
    keeper.roll_up()
    await check(keeper, beats + too_late, [Resolution.RAW])
    await check(keeper, beats, [Resolution.MINUTE])


async def test_rollups_outlive_the_heartbeats_they_are_made_of(keeper: Keeper) -> None:
    agent_id = uuid4()
    old = beats_of(agent_id, NOW - 9 * DAY, NOW - 8 * DAY, timedelta(minutes=31))
    new = beats_of(agent_id, NOW - DAY, NOW, timedelta(minutes=31))
    insert(keeper, old + new)
    keeper.roll_up()
    configure(keeper.owner_url, late_heartbeats=3 * DAY, heartbeat_retention=4 * DAY)
    try:
        keeper.drop_expired()
        keeper.roll_up()
        await check(keeper, new, [Resolution.RAW])
        await check(keeper, old + new, ROLLUPS)
    finally:
        configure(keeper.owner_url, heartbeat_retention=30 * DAY, late_heartbeats=LATE)
        keeper.cover(NOW - 12 * DAY)


async def test_what_is_compressed_is_read_and_written_like_before(keeper: Keeper) -> None:
    if not isinstance(keeper, TimescaleKeeper):
        pytest.skip("only TimescaleDB compresses")
    agent_id = uuid4()
    beats = beats_of(agent_id, NOW - 6 * DAY, NOW, timedelta(minutes=41))
    insert(keeper, beats)
    keeper.roll_up()
    assert keeper.compress() > 0
    await check(keeper, beats)
    late = beats_of(agent_id, NOW - 6 * DAY, NOW - 5 * DAY, timedelta(minutes=37))
    insert(keeper, late)
    keeper.roll_up()
    await check(keeper, beats + late)
