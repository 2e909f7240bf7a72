"""What a simulated agent does when its lot has fallen: fails, dawdles, crashes, goes away."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

from agent.core import effects as fx
from agent.core.agent import AgentCore
from agent.core.errors import JobFailure
from simulators.behaviour import Lot, Phase, draw
from simulators.identities import Home
from simulators.packages import Input, Job, Step
from simulators.world import World

_DARK_AFTER_S = 1.0  # so that the platform has heard of the success
_PHASES: Final[Mapping[type[Step], Phase]] = {
    fx.Download: Phase.DOWNLOAD,
    fx.Verify: Phase.VERIFY,
    fx.Open: Phase.OPEN,
    fx.Activate: Phase.ACTIVATE,
}


class Misbehaving(ABC):
    """The part of a simulated agent that its world's behaviour drives."""

    __slots__ = ("_away_until_s", "_crashed", "_cut", "_world", "core", "home")
    _away_until_s: float
    _crashed: set[Phase]
    _cut: str
    _world: World
    core: AgentCore
    home: Home

    @abstractmethod
    async def connect(self) -> None:
        """Open the link, once."""

    @abstractmethod
    def _input(self, item: Input) -> None: ...

    @abstractmethod
    def _answer(self, item: Input) -> None: ...

    @abstractmethod
    def _drop(self, reason: str) -> None: ...

    @abstractmethod
    def _reboot(self) -> None: ...

    def _is_away(self) -> bool:
        """Tell whether the agent is not to connect now; it does when its time has come."""
        world = self._world
        if world.loop.time() >= self._away_until_s:
            return False
        if self._away_until_s < math.inf:
            world.loop.call_at(self._away_until_s, world.waiting.put_nowait, self)
        return True

    def _step(self, step: Step) -> None:
        """Do a step of a job, as this agent's lot for its phase and version has it."""
        world, core = self._world, self.core
        phase = _PHASES[type(step)]
        lot = self._draw(phase)
        cuts = lot.cut and step.digest != self._cut
        job = Job(step, self.home, core, cuts=cuts)
        if lot.fail is not None:
            failure = JobFailure("device", "simulated", lot.fail)
            world.loop.call_later(
                lot.slow_s,
                self._input,
                lambda moment: core.job_failed(moment, step.job, failure),
            )
            return
        if lot.dark:
            world.loop.call_soon(self._go_dark)
        elif lot.crash and phase not in self._crashed:
            self._crashed.add(phase)
            world.loop.call_soon(self._reboot)
        else:
            if cuts:
                self._cut = step.digest
            if lot.offline_s:
                world.loop.call_soon(self._go_offline, lot.offline_s)
            world.loop.call_later(lot.slow_s, world.work.submit, job, self._answer)

    def _draw(self, phase: Phase) -> Lot:
        desired = self.core.state.desired
        release = desired.release if desired else None
        version = release.version if release else "0.0.0"
        return draw(
            self._world.behaviour,
            phase,
            version=version,
            seed=self._world.seed,
            agent=self.home.number,
        )

    def _ran_first(self) -> None:
        """A version has been activated, and the heartbeat that says so is on its way."""
        lot = self._draw(Phase.RUNNING)
        loop = self._world.loop
        if lot.dark:
            loop.call_later(_DARK_AFTER_S, self._go_dark)
        elif lot.crash:
            loop.call_later(_DARK_AFTER_S, self._reboot)
        elif lot.offline_s:
            loop.call_later(_DARK_AFTER_S, self._go_offline, lot.offline_s)

    def _go_dark(self) -> None:
        """Be gone for good, without a word."""
        self._away_until_s = math.inf
        self._drop("dark")

    def _go_offline(self, seconds: float) -> None:
        """Be gone for a while; whatever was begun goes on."""
        self._away_until_s = self._world.loop.time() + seconds
        self._drop("offline")
