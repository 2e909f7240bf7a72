"""Devices that are not what they were: an older image of the disk, a clock that is wrong."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.core.clock import Moment
from agent.runtime.service import now
from agent.runtime.statedir import StateDir
from tests.integration.identity.stack import Running, Stack


def image_of(running: Running, to: Path) -> StateDir:
    """Copy the whole disk of a device that is switched off."""
    shutil.copytree(running.directory.path, to)
    return StateDir(to)


async def boots(stack: Stack, running: Running) -> list[int]:
    rows = await stack.rows(
        "SELECT DISTINCT boot_count FROM heartbeats WHERE agent_id = :id ORDER BY 1",
        id=running.agent_id,
    )
    return [row.boot_count for row in rows]


async def test_a_restored_image_is_heard_again_and_none_of_its_events_is_lost(
    stack: Stack, tmp_path: Path
) -> None:
    running = await stack.new_agent(await stack.new_fleet())
    await running.stop()
    await stack.until_presence(running.agent_id, "offline")
    image = image_of(running, tmp_path / "image")
    for _ in range(2):
        running = stack.start(running.directory, running.agent_id)
        await stack.until_presence(running.agent_id, "online")
        await running.stop()
        await stack.until_presence(running.agent_id, "offline")
    known = await boots(stack, running)
    restored = stack.start(image, running.agent_id)
    await stack.until_presence(running.agent_id, "online")
    assert max(await boots(stack, running)) > max(known)
    assert (await stack.agent(running.agent_id))["boot_count"] == known[-1] + 1

    async def new_log() -> bool:
        return len(await stack.rows("SELECT DISTINCT log_id FROM agent_events")) == 2

    await stack.until(new_log, "its events do not go to a log of their own")
    await restored.stop()
    # What it says before it hears that it is old contradicts the log, and is told in full again.
    assert len(await stack.api.events("event.conflict")) <= 1
    started = await stack.rows(
        "SELECT 1 FROM ledger_events WHERE type = 'agent.reported.started' AND actor_id = :id",
        id=str(running.agent_id),
    )
    assert len(started) == 4


async def test_an_image_from_before_the_last_renewal_stays_out(
    stack: Stack, tmp_path: Path
) -> None:
    running = await stack.new_agent(await stack.new_fleet())
    await running.stop()
    image = image_of(running, tmp_path / "image")
    running = stack.start(running.directory, running.agent_id)
    await stack.until_presence(running.agent_id, "online")
    stack.renew_now(running)
    await stack.until_superseded(running.agent_id, 1)
    await running.stop()
    restored = stack.start(image, running.agent_id)

    async def refused() -> bool:
        return restored.service.core._attempt >= 2

    await stack.until(refused, "nobody has refused the old certificate")
    assert not restored.service.core.online
    await stack.until_presence(running.agent_id, "offline")
    await stack.until(lambda: _denied(stack), "the refusals are not told")


async def _denied(stack: Stack) -> bool:
    assert stack.work is not None
    await stack.work.tell_tallies()
    return bool(await stack.api.events("agent.denied"))


class Turned:
    """The clock of one device, which nobody else believes."""

    def __init__(self, begin: datetime) -> None:
        self._begin, self._at = begin, now()

    def __call__(self) -> Moment:
        moment = now()
        passed_s = moment.monotonic_s - self._at.monotonic_s
        return Moment(self._begin + timedelta(seconds=passed_s), moment.monotonic_s)


async def test_a_device_in_1970_works_and_the_platform_dates_what_it_says(stack: Stack) -> None:
    directory, agent_id = await stack.enroll(await stack.new_fleet())
    await _run_with(stack, directory, agent_id, Turned(datetime(1970, 1, 2, tzinfo=UTC)))
    found = await stack.until_presence(agent_id, "online")
    assert found["clock_offset_s"] < -50 * 365 * 86_400
    assert found["last_heartbeat_at"] > stack.clock().replace(microsecond=0).isoformat()[:10]


async def test_a_device_in_2099_is_kept_but_believes_nobody_until_its_clock_is_right(
    stack: Stack,
) -> None:
    directory, agent_id = await stack.enroll(await stack.new_fleet())
    running = await _run_with(stack, directory, agent_id, Turned(datetime(2099, 1, 2, tzinfo=UTC)))
    found = await stack.until_presence(agent_id, "online")
    assert found["clock_offset_s"] > 50 * 365 * 86_400
    await running.stop()
    floor = directory.get_state().time_floor
    assert floor < stack.clock() + timedelta(days=1), "a wrong clock must not become the floor"
    await stack.until_presence(agent_id, "offline")
    stack.start(directory, agent_id)
    found = await stack.until_presence(agent_id, "online")
    assert abs(found["clock_offset_s"]) < 60


async def _run_with(stack: Stack, directory: StateDir, agent_id: object, clock: Turned) -> Running:
    stack.clock.moment, kept = clock, stack.clock.moment  # type: ignore[method-assign] # one device
    try:
        return stack.start(directory, agent_id)  # type: ignore[arg-type] # it is the id
    finally:
        stack.clock.moment = kept  # type: ignore[method-assign] # as it was
