"""The demo's steps. Each looks first whether it is done, so that a second run goes on."""

import asyncio
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tensorguard.cli.showcase import credentials, model
from tensorguard.cli.showcase.credentials import Credentials
from tensorguard.cli.showcase.errors import DemoFailed
from tensorguard.cli.showcase.platform import Api, Json
from tensorguard.cli.showcase.programs import Programs, ask

FLEETS: Final = {"hospital-a": "Hospital A", "factory-b": "Factory B"}
HEARTBEAT_S: Final = 5
_ONLINE_WITHIN_S: Final = 240.0
_DEPLOYED_WITHIN_S: Final = 300.0
_DONE: Final = ("completed", "aborted", "rolled_back")


@dataclass(frozen=True)
class Group:
    """Simulated agents that have a fleet and tags in common."""

    fleet: str
    gpu: bool
    region: str
    share: int
    """Of all simulated agents, in percent."""

    @property
    def name(self) -> str:
        return f"simulators-{self.fleet}-{'gpu' if self.gpu else 'cpu'}"


GROUPS: Final = (
    Group("hospital-a", True, "us-east", 28),
    Group("hospital-a", False, "us-east", 24),
    Group("factory-b", True, "eu-west", 20),
    Group("factory-b", False, "eu-west", 28),
)


def sizes(agents: int) -> list[int]:
    """Return how many agents each group has; together they are `agents`."""
    reached, found = 0, []
    total = 0
    for group in GROUPS:
        total += group.share
        upto = round(agents * total / 100)
        found.append(upto - reached)
        reached = upto
    return found


class Demo:
    """One run on a platform that is up."""

    def __init__(
        self, *, data_directory: Path, url: str, agents: int, say: Callable[[str], None]
    ) -> None:
        self._data = data_directory
        self._work = data_directory / "demo"
        self._url = url
        self._agents = agents
        self._say = say

    async def run(self, announce: Callable[[Credentials], None]) -> None:
        """Set everything up, tell where to look, and keep it running until cancelled.

        Raises: DemoFailed.
        """
        self._work.mkdir(mode=0o700, exist_ok=True)
        file = model.find_model()
        known = await credentials.settle(self._data, self._url)
        async with Api(self._url, known.api_key, self._say) as api, Programs() as programs:
            await self._ensure_fleets(api)
            release = await model.ensure_release(api, self._data, self._work, file)
            await self._start_agents(api, programs)
            await self._wait_online(api)
            await self._ensure_deployment(api, release)
            announce(known)
            await asyncio.Event().wait()

    async def _ensure_fleets(self, api: Api) -> None:
        held = {one["slug"] async for one in api.pages("fleets", {})}
        for slug, name in FLEETS.items():
            if slug not in held:
                self._say(f"creating the fleet {slug}")
                body = {"slug": slug, "name": name, "heartbeat_interval_s": HEARTBEAT_S}
                await api.post("fleets", body)

    async def _start_agents(self, api: Api, programs: Programs) -> None:
        self._say(f"starting {self._agents} simulated agents")
        for seed, (group, size) in enumerate(zip(GROUPS, sizes(self._agents), strict=True), 1):
            if size:
                programs.start(
                        "simulate", "--agents", str(size), "--fleet", group.fleet,
                        "--tags", f"gpu={str(group.gpu).lower()}",
                        "--tags", f"region={group.region}",
                        "--seed", str(seed), "--state", str(self._work / group.name),
                        "--events-per-minute", "0.2", "--drain", "2s",
                        log=self._work / f"{group.name}.log",
                        environment={"TG_URL": api.url, "TG_API_KEY": api.api_key},
                    )  # fmt: skip
        state = self._work / "agent"
        if not (state.is_dir() and await _is_enrolled(state)):
            self._say("enrolling this machine's own agent")
            token = await api.post(
                "fleets/hospital-a/enrollment-tokens",
                {"ttl_s": 600, "tags": {"gpu": "false", "region": "here"}},
            )
            name = platform.node() or "this-machine"
            await ask(
                "agent", "enroll", "-", "--name", name, "--state-dir", str(state),
                given=str(token["join"]) + "\n",
            )  # fmt: skip
        programs.start(
                "agent", "run", "--state-dir", str(state), "--json",
                log=self._work / "agent.log", environment={},
            )  # fmt: skip

    async def _wait_online(self, api: Api) -> None:
        loop = asyncio.get_running_loop()
        deadline, told = loop.time() + _ONLINE_WITHIN_S, -1
        while True:
            overview = await api.get("overview")
            online = int(overview["agents"]["by_presence"].get("online", 0))
            # Whoever was revoked, as the demo invites one to do, never comes back.
            revoked = int(overview["agents"]["by_status"].get("revoked", 0))
            wanted = max(0, self._agents + 1 - revoked)
            if online >= wanted:
                self._say(f"{online} agents are online")
                return
            if loop.time() > deadline:
                raise DemoFailed(f"only {online} of {wanted} agents came online")
            if online != told:
                self._say(f"{online} of {wanted} agents are online")
                told = online
            await asyncio.sleep(1)

    async def _ensure_deployment(self, api: Api, release: Json) -> None:
        found: Json | None = None
        async for one in api.pages("deployments", {}):
            if one["release"]["id"] == release["id"]:
                found = one
                break
        what = f"{release['name']} {release['version']}"
        if found is None:
            self._say(f"rolling {what} out to {' and '.join(FLEETS)}")
            strategy = {"stages": [{"percent": 100}]}
            body = {"release_id": release["id"], "fleets": list(FLEETS), "strategy": strategy}
            found = await api.post("deployments", body)
        loop = asyncio.get_running_loop()
        deadline, told = loop.time() + _DEPLOYED_WITHIN_S, ""
        while found["state"] not in _DONE and loop.time() < deadline:
            await asyncio.sleep(1)
            found = await api.get(f"deployments/{found['id']}")
            if (now := _counted(found)) != told:
                self._say(f"{what}: {now}")
                told = now
        self._say(f"the deployment of {what} is {found['state']}: {_counted(found)}")


async def _is_enrolled(state: Path) -> bool:
    try:
        await ask("agent", "status", "--state-dir", str(state))
    except DemoFailed:
        return False
    return True


def _counted(deployment: Json) -> str:
    counts = deployment["counts"]
    return ", ".join(f"{counts[state]} {state}" for state in counts) or "nobody yet"
