"""A run: identities, agents, connections at a bounded rate, a drain at the end, a summary."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import psutil
from cryptography import x509

from agent.core.settings import CoreSettings
from agent.core.state import AgentState
from agent.runtime.https import request, unverified_context
from agent.version import AGENT_VERSION, BUILD_TIME
from simulators.agent import SimulatedAgent
from simulators.behaviour import Behaviour
from simulators.enrollment import NewAgent, enroll_many, mint_join
from simulators.errors import NoWayIn, SimulatorError
from simulators.identities import HeldEvents, Home, IdentityStore, Kept
from simulators.packages import DownloadMode, PackageWork
from simulators.world import AckedLog, World
from tensorguard.pki.bundle import TrustStore, accept_next
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import spki_sha256
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.join import Join

SAVE_EVERY_S = 5.0
SWEEP_EVERY_S = 10.0
MEASUREMENTS = 6
CONNECTING_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to simulate; a join string, or the REST API to make one with."""

    agents: int
    state: Path
    fleet: str | None = None
    join: Join | None = None
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    interval_s: float | None = None
    events_per_minute: float = 0.0
    seed: int = 1
    duration_s: float | None = None
    drain_s: float = 30.0
    connects_per_s: float = 100.0
    tags: Mapping[str, str] = field(default_factory=dict)
    download: DownloadMode = DownloadMode.real
    acked_log: Path | None = None
    source: str | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)


class Simulation:
    """One process full of agents; `run` returns the summary."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._stop = asyncio.Event()
        self._next_connect_s = 0.0
        self._enrolled = 0
        self.agents: list[SimulatedAgent] = []

    def stop(self) -> None:
        """Have `run` drain and return."""
        self._stop.set()

    async def run(self) -> dict[str, Any]:
        """Enrol what is missing, run until told to stop or `duration_s`, drain.

        Raises: SimulatorError, AgentError.
        """
        plan = self._plan
        async with AsyncExitStack() as closing:
            store = IdentityStore(plan.state)
            closing.callback(store.close)
            kept = await self._identities(store)
            work = PackageWork(plan.download)
            closing.callback(work.close)
            world = self._world(store, work)
            if world.acked_log is not None:
                closing.callback(world.acked_log.close)
            memory_before_kib = _memory_kib()
            self.agents = [SimulatedAgent(world, k.home, k.state, k.outbox) for k in kept]
            world.statistics.agents = len(self.agents)
            world.statistics.enrolled = self._enrolled
            begun_s = time.monotonic()
            await self._live(world, memory_before_kib)
            return world.statistics.summary(
                duration_s=time.monotonic() - begun_s,
                held=self._held(),
                memory_kib=world.memory_kib,
            )

    async def _identities(self, store: IdentityStore) -> list[Kept]:
        plan = self._plan
        kept = store.list_agents(plan.agents)
        known = store.find_trust()
        if kept and not await asyncio.to_thread(_is_same_platform, kept[0].home, known):
            self._say(f"{store.path} belongs to a platform that is no more: enrolling anew")
            store.clear()
            kept = []
        self._enrolled = missing = plan.agents - len(kept)
        if not missing:
            return kept
        join = plan.join or await self._mint(missing)
        first = store.next_number()
        new: list[Kept] = []

        def add(agent: NewAgent) -> None:
            store.add(agent.home, agent.state, agent.pem)
            known = store.find_trust()
            if known is None or TrustStore.open_first(known).version < agent.joined.trust.version:
                store.keep_trust(agent.joined.trust.version, agent.joined.trust.envelope)
            new.append(Kept(home=agent.home, state=agent.state, outbox=None))
            if len(new) % 100 == 0:
                self._say(f"enrolled {len(new)} of {missing}")

        await enroll_many(join, range(first, first + missing), plan.seed, add)
        return kept + sorted(new, key=lambda one: one.home.number)

    async def _mint(self, uses: int) -> Join:
        plan = self._plan
        if plan.url is None or plan.api_key is None or plan.fleet is None:
            raise NoWayIn("there is neither a join string nor fleet, URL and API key")
        return await mint_join(plan.url, plan.api_key, plan.fleet, uses=uses, tags=plan.tags)

    def _world(self, store: IdentityStore, work: PackageWork) -> World:
        plan = self._plan
        envelope = store.find_trust()
        if envelope is None:
            raise SimulatorError(f"{store.path} holds no trust bundle", hint="Remove it.")
        return World(
            random=Random(plan.seed),  # noqa: S311  # a simulation has to be repeatable
            settings=CoreSettings(
                agent_version=AGENT_VERSION,
                build_time=BUILD_TIME,
                events_per_minute=max(54.0, 1.5 * plan.events_per_minute),
                heartbeat_interval_s=plan.interval_s,
            ),
            store=store,
            work=work,
            trust=TrustStore.open_first(envelope),
            seed=plan.seed,
            source=plan.source,
            behaviour=plan.behaviour,
            acked_log=None if plan.acked_log is None else AckedLog(plan.acked_log),
        )

    async def _live(self, world: World, memory_before_kib: float) -> None:
        tasks = [
            asyncio.create_task(self._connect(world), name=f"connect-{index}")
            for index in range(min(CONNECTING_AT_ONCE, len(self.agents)))
        ]
        tasks.append(asyncio.create_task(self._sweep(world), name="sweep"))
        tasks.append(asyncio.create_task(self._save(world), name="save"))
        tasks.append(asyncio.create_task(self._show(world), name="show"))
        measure = self._measure(world, memory_before_kib)
        tasks.append(asyncio.create_task(measure, name="measure"))
        tasks.append(asyncio.create_task(self._make_events(world), name="events"))
        try:
            for agent in self.agents:
                agent.start()
            await self._wait_for_end(tasks)
            world.stopping = True
            await self._drain(world)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for agent in self.agents:
                agent.close()
            self._save_all(world)

    async def _wait_for_end(self, tasks: list[asyncio.Task[None]]) -> None:
        stop = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait(
                [stop, *tasks],
                timeout=self._plan.duration_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done - {stop}:
                task.result()  # none of them ever returns: this raises why it ended
        finally:
            stop.cancel()

    async def _drain(self, world: World) -> None:
        until_s = world.loop.time() + self._plan.drain_s
        while self._held() and (left_s := until_s - world.loop.time()) > 0:
            world.acks.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(world.acks.wait(), left_s)

    async def _connect(self, world: World) -> None:
        while True:
            agent = await world.waiting.get()
            now_s = world.loop.time()
            wait_s = max(0.0, self._next_connect_s - now_s)
            self._next_connect_s = now_s + wait_s + 1.0 / self._plan.connects_per_s
            await asyncio.sleep(wait_s)
            await agent.connect()

    async def _sweep(self, world: World) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            for agent in self.agents:
                agent.keep_alive(world.loop.time())

    async def _save(self, world: World) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            dirty, world.dirty = world.dirty, set()
            states: list[tuple[int, AgentState, HeldEvents | None]] = [
                (agent.home.number, agent.core.state, None)
                for agent in self.agents
                if agent.home.number in dirty
            ]
            if states:
                world.store.save(states)

    def _save_all(self, world: World) -> None:
        world.store.save(
            (agent.home.number, agent.core.state, agent.held()) for agent in self.agents
        )

    async def _show(self, world: World) -> None:
        terminal = sys.stderr.isatty()
        begun_s = world.loop.time()
        while True:
            await asyncio.sleep(1.0 if terminal else 10.0)
            self._say(world.statistics.line(world.loop.time() - begun_s, self._held()))

    async def _measure(self, world: World, before_kib: float) -> None:
        """Take what an agent costs a few times, from when all are online first; keep the least.

        Before that some are missing; later other things (downloads) have used memory, too.
        """
        left = MEASUREMENTS
        while left:
            await asyncio.sleep(0.5)
            if world.statistics.online < len(self.agents):
                continue
            left -= 1
            each_kib = (_memory_kib() - before_kib) / len(self.agents)
            world.memory_kib = min(each_kib, world.memory_kib or each_kib)
        await asyncio.Event().wait()

    async def _make_events(self, world: World) -> None:
        """Spread events over agents and time: each agent in turn, at its own random place."""
        per_s = self._plan.events_per_minute * len(self.agents) / 60.0
        if per_s <= 0:
            await asyncio.Event().wait()
        order = list(range(len(self.agents)))
        world.random.shuffle(order)
        made, begun_s = 0, world.loop.time()
        while not world.stopping:
            await asyncio.sleep(min(1.0, max(0.005, 1.0 / per_s)))
            due = int((world.loop.time() - begun_s) * per_s)
            while made < due and not world.stopping:
                agent = self.agents[order[made % len(order)]]
                agent.record("self-test", {"number": made, "seed": self._plan.seed})
                made += 1
        await asyncio.Event().wait()

    def _held(self) -> int:
        return sum(len(agent.core.outbox) for agent in self.agents)


def _is_same_platform(home: Home, envelope: bytes | None) -> bool:
    """Whether the device URL shows a CA that the kept trust bundle, or one after it, names."""
    if envelope is None:
        return False
    trust = TrustStore.open_first(envelope)
    answer = request(unverified_context(), home.device_url, "/device/v1/ca")
    try:
        shown = {spki_sha256(ca) for ca in x509.load_pem_x509_certificates(answer.body)}
    except ValueError:
        return False
    while not shown & {spki_sha256(ca) for ca in trust.cas}:
        path = f"/device/v1/trust/{trust.version + 1}"
        answer = request(unverified_context(), home.device_url, path)
        if answer.status != 200:
            return False
        try:
            trust = accept_next(trust, answer.body, datetime.now(UTC))
        except (PkiError, ProtocolError):
            return False
    return True


def _memory_kib() -> float:
    return float(psutil.Process().memory_info().rss) / 1024
