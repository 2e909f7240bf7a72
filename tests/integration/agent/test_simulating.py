"""Simulated agents against mosquitto: real joins, real mutual TLS, real downloads."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from simulators.behaviour import Behaviour, Fault, Phase
from simulators.enrollment import mint_join
from simulators.errors import ApiRefused, NoWayIn
from simulators.packages import DownloadMode
from simulators.simulation import Plan, Simulation
from tensorguard.protocol.join import format_join
from tensorguard.protocol.messages import Heartbeat, Progress
from tensorguard.protocol.topics import UpKind
from tests.integration.agent import platform as platforms
from tests.integration.agent.platform import Hub, Platform

COUNT = 12
MOSQUITTO_IS_HERE = Path(platforms.MOSQUITTO).exists()


def plan(platform: Platform, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "agents": COUNT,
        "state": platform.folder / "sims",
        "join": platform.join,
        "interval_s": 0.5,
        "events_per_minute": 120.0,
        "duration_s": 3.0,
        "drain_s": 10.0,
    }
    return Plan(**(fields | changes))


async def simulate(a_plan: Plan) -> dict[str, Any]:
    return await Simulation(a_plan, print).run()


async def simulate_until(a_plan: Plan, hub: Hub, is_so: Callable[[], bool]) -> dict[str, Any]:
    """Run until what the hub hears makes this so."""
    simulation = Simulation(a_plan, print)
    running = asyncio.create_task(simulation.run())
    await asyncio.to_thread(hub.wait, is_so)
    simulation.stop()
    return await running


def everybody_says(platform: Platform, hub: Hub, state: str) -> bool:
    """Whether each agent has reported this of a deployment."""
    return all(
        state in [one.state for one in hub.of(answer.agent_id, UpKind.PROGRESS, Progress)]
        for answer in platform.enrolled.values()
    )


async def test_every_event_is_acked_and_written_down_as_it_is(platform: Platform, hub: Hub) -> None:
    log = platform.folder / "acked"
    summary = await simulate(plan(platform, acked_log=log))
    assert (summary["agents"], summary["enrolled"], summary["connects"]) == (COUNT, COUNT, COUNT)
    assert summary["heartbeats"] >= COUNT * 4
    assert summary["published"] == summary["acked"] >= COUNT
    assert (summary["lost"], summary["not_drained"]) == (0, 0)
    lines = [line.split() for line in log.read_text().splitlines()]
    acked = [(UUID(agent), UUID(log_id), int(number)) for agent, log_id, number in lines]
    assert len(set(acked)) == len(acked) == summary["acked"]
    assert set(acked) == set(hub.events)
    assert summary["ack_latency_ms"]["p50"] > 0


async def test_identities_are_kept_and_two_runs_with_one_seed_are_no_clones(
    platform: Platform, hub: Hub
) -> None:
    await simulate(plan(platform, duration_s=1.0))
    second = await simulate(plan(platform, duration_s=1.0))
    assert second["enrolled"] == 0
    assert len(platform.enrolled) == COUNT
    assert hub.conflicts == 0
    for agent_id in {agent for agent, _, _ in hub.messages}:
        beats = hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)
        assert [beat.boot_count for beat in beats] == sorted(beat.boot_count for beat in beats)
        assert len({beat.boot_id for beat in beats}) == 2


async def test_more_agents_than_before_enrol_only_the_new_ones(
    platform: Platform, hub: Hub
) -> None:
    await simulate(plan(platform, duration_s=0.5))
    more = await simulate(plan(platform, agents=COUNT + 3, duration_s=0.5))
    assert (more["enrolled"], more["agents"]) == (3, COUNT + 3)


async def test_what_a_silent_hub_did_not_ack_is_told_and_kept_for_the_next_run(
    platform: Platform, hub: Hub
) -> None:
    hub.acking = False
    silent = await simulate(plan(platform, duration_s=1.0, drain_s=0.2))
    assert silent["acked"] == 0
    assert silent["not_drained"] == silent["published"] >= COUNT
    hub.acking = True
    after = await simulate(plan(platform, duration_s=1.0, events_per_minute=0.0))
    assert (after["not_drained"], after["lost"]) == (0, 0)
    assert after["acked"] == silent["published"] + COUNT, "and one started each"
    assert hub.conflicts == 0


@pytest.mark.parametrize(
    ("mode", "at_rest"),
    [
        (DownloadMode.real, "plain"),
        (DownloadMode.manifest, "plain"),
        (DownloadMode.real, "sealed"),
    ],
)
async def test_a_deployment_reaches_every_simulated_agent(
    platform: Platform, hub: Hub, mode: DownloadMode, at_rest: str
) -> None:
    await simulate(plan(platform, agents=4, duration_s=0.3))
    package = platform.build({"weights.bin": b"w" * 300_000}, policy={"at_rest": at_rest})
    for answer in platform.enrolled.values():
        hub.deploy(platform.desired(answer.agent_id, package, revision=1))

    def all_run_it() -> bool:
        last = [
            hub.of(answer.agent_id, UpKind.HEARTBEAT, Heartbeat)[-1].package
            for answer in platform.enrolled.values()
        ]
        is_told = everybody_says(platform, hub, "succeeded")
        return is_told and all(one is not None and one.digest == package.digest for one in last)

    a_plan = plan(platform, agents=4, duration_s=None, download=mode)
    summary = await simulate_until(a_plan, hub, all_run_it)
    assert summary["deployments"] == {"succeeded": 4}
    assert all_run_it()
    fetched = sum("/packages/" in one.path for one in platform.requests)
    assert fetched == 4


async def test_agents_that_dawdle_crash_and_go_away_on_their_way_arrive_all_the_same(
    platform: Platform, hub: Hub
) -> None:
    await simulate(plan(platform, agents=2, duration_s=0.3))
    package = platform.build({"w": b"w" * 1000})
    for answer in platform.enrolled.values():
        hub.deploy(platform.desired(answer.agent_id, package, revision=1))
    faults = (
        Fault(phase=Phase.DOWNLOAD, slow=1, slow_s=0.2),
        Fault(phase=Phase.VERIFY, crash=1),
        Fault(phase=Phase.OPEN, offline=1, offline_s=0.3),
    )
    how = {"behaviour": Behaviour(faults=faults), "download": DownloadMode.none}
    summary = await simulate(plan(platform, agents=2, duration_s=4.0, **how))
    assert summary["deployments"] == {"succeeded": 2}
    assert not [one for one in platform.requests if "/packages/" in one.path]
    assert summary["connects"] == 2 * 3, "once more after the crash, and after its absence"
    for answer in platform.enrolled.values():
        beats = hub.of(answer.agent_id, UpKind.HEARTBEAT, Heartbeat)
        assert len({beat.boot_id for beat in beats}) == 3
        assert beats[-1].package is not None
        assert beats[-1].package.digest == package.digest
        states = [one.state for one in hub.of(answer.agent_id, UpKind.PROGRESS, Progress)]
        assert states.count("downloading") > 1, "the crash has ended what was begun"
        assert states[-1] == "succeeded"


async def test_a_tampered_package_fails_on_simulated_agents_too(
    platform: Platform, hub: Hub
) -> None:
    await simulate(plan(platform, agents=2, duration_s=0.3))
    package = platform.build({"w": b"w" * 1000})
    package.data = package.data[:-1] + bytes([package.data[-1] ^ 1])
    for answer in platform.enrolled.values():
        hub.deploy(platform.desired(answer.agent_id, package, revision=1))
    summary = await simulate_until(
        plan(platform, agents=2, duration_s=None),
        hub,
        lambda: everybody_says(platform, hub, "failed"),
    )
    assert summary["deployments"] == {"failed": 2}
    assert any(reason.startswith("ciphertext-mismatch") for reason in summary["reasons"])


async def test_a_broker_under_another_ca_is_refused_and_hears_nothing(
    device_api: Platform,
) -> None:
    if not MOSQUITTO_IS_HERE:
        pytest.skip("mosquitto is not installed")
    (device_api.folder / "other").mkdir()
    other = platforms.new_platform(device_api.folder / "other")
    pem = platforms.issue_service(other.signers, "broker", other.folder / "broker.pem")
    with platforms.running_broker(other, pem):
        device_api.mqtt_port = other.mqtt_port
        summary = await simulate(plan(device_api, agents=2, duration_s=1.0, drain_s=0.1))
    assert summary["connects"] == 0
    assert summary["refused"] >= 2
    assert any("is not believed" in reason for reason in summary["reasons"])


async def test_a_run_that_is_told_to_stop_drains_first(platform: Platform, hub: Hub) -> None:
    simulation = Simulation(plan(platform, duration_s=None), print)
    asyncio.get_running_loop().call_later(2.0, simulation.stop)
    summary = await simulation.run()
    assert summary["published"] == summary["acked"] > 0


async def test_without_a_way_in_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoWayIn) as caught:
        await simulate(Plan(agents=1, state=tmp_path / "sims", fleet="f"))
    assert "--join" in caught.value.hint


class _Rest(BaseHTTPRequestHandler):
    join = ""
    key = "tg_right"
    seen: list[tuple[str, str, Any]]

    def do_GET(self) -> None:
        self._answer(404 if ("POST", "/api/v1/fleets") not in self._calls() else 200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {self.key}":
            self._answer(401, {"detail": "no such API key"})
        elif self.path == "/api/v1/fleets":
            self._answer(201, body, body)
        else:
            self._answer(201, {"id": "1", "join": self.join, "expires_at": "soon"}, body)

    def _calls(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.seen]

    def _answer(self, status: int, document: Any, body: Any = None) -> None:
        self.seen.append((self.command, self.path, body))
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def rest(device_api: Platform) -> Iterator[tuple[str, type[_Rest]]]:
    handler = type("Rest", (_Rest,), {"join": format_join(device_api.join), "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()
    thread.join(5)


async def test_a_missing_fleet_is_made_and_a_token_minted_for_all(
    device_api: Platform, rest: tuple[str, type[_Rest]]
) -> None:
    url, handler = rest
    join = await mint_join(url, "tg_right", "fleet-a", uses=50, tags={"gpu": "true"})
    assert join == device_api.join
    posts = [(path, body) for method, path, body in handler.seen if method == "POST"]
    assert posts[0] == ("/api/v1/fleets", {"slug": "fleet-a", "name": "fleet-a"})
    assert posts[1][0] == "/api/v1/fleets/fleet-a/enrollment-tokens"
    assert posts[1][1]["max_uses"] == 50
    assert posts[1][1]["tags"] == {"gpu": "true"}


async def test_a_wrong_api_key_is_told_without_showing_it(
    rest: tuple[str, type[_Rest]],
) -> None:
    with pytest.raises(ApiRefused) as caught:
        await mint_join(rest[0], "tg_wrong-secret", "fleet-a", uses=1, tags={})
    assert "401" in caught.value.message
    assert "wrong-secret" not in caught.value.message
