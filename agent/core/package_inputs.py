"""What the runtime tells the core of the way to a package: each step's end, or its failure."""

from abc import ABC, abstractmethod

from agent.core.belief import Belief
from agent.core.clock import Moment
from agent.core.desired import BEHIND_ON_PUBLISHERS, DesiredMachine
from agent.core.effects import Effect, SampleTelemetry
from agent.core.errors import JobFailure
from agent.core.state import AgentState, Installed
from agent.core.turn import Turn


class PackageInputs(ABC):
    """The part of the core's inputs that its desired machine takes."""

    __slots__ = ()
    _belief: Belief
    _desired: DesiredMachine
    online: bool
    state: AgentState

    @abstractmethod
    def _turn(self, moment: Moment) -> Turn: ...

    @abstractmethod
    def _finish(self, turn: Turn) -> list[Effect]: ...

    def downloading(self, moment: Moment, job: int, done_bytes: int) -> list[Effect]:
        """So many bytes of the package file are on disk."""
        turn = self._turn(moment)
        self._desired.downloading(turn, job, done_bytes)
        return self._finish(turn)

    def downloaded(self, moment: Moment, job: int) -> list[Effect]:
        """The package file is on disk, whole."""
        turn = self._turn(moment)
        self._desired.downloaded(turn, job)
        return self._finish(turn)

    def verified(self, moment: Moment, job: int, candidate: Installed) -> list[Effect]:
        """The package may be opened here."""
        turn = self._turn(moment)
        self._desired.verified(turn, job, candidate)
        return self._finish(turn)

    def opened(self, moment: Moment, job: int, *, decrypted: bool = True) -> list[Effect]:
        """The package's files are on disk."""
        turn = self._turn(moment)
        self._desired.opened(turn, job, decrypted=decrypted)
        return self._finish(turn)

    def activated(self, moment: Moment, job: int, inference: dict[str, str | int]) -> list[Effect]:
        """The package runs: say so at once, with a heartbeat that names its digest."""
        turn = self._turn(moment)
        before = self.state.running
        self._desired.activated(turn, job, inference)
        if self.state.running is not before and self.online:
            turn.do(SampleTelemetry())
        return self._finish(turn)

    def job_failed(self, moment: Moment, job: int, failure: JobFailure) -> list[Effect]:
        """A step of the job did not succeed."""
        turn = self._turn(moment)
        self._desired.failed(turn, job, failure)
        if failure.code in BEHIND_ON_PUBLISHERS:
            self._belief.hurry(turn)
        return self._finish(turn)
