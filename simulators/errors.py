"""Why a simulation cannot run, each with the way out."""


class SimulatorError(Exception):
    """A simulation cannot start or go on.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "simulator-error"
    hint = "See: tensorguard simulate --help"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class NoWayIn(SimulatorError):
    """There is neither a join string nor an API key to make one with."""

    code = "no-way-in"
    hint = "Give --join JOIN, or --url and --api-key (tensorguard admin api-key create)."


class ApiRefused(SimulatorError):
    """The platform's REST API refused what the simulation needs."""

    code = "api-refused"
    hint = "Check --url and that the API key has the role admin."


class LinkFailed(SimulatorError):
    """A connection to the broker could not be had, or has ended; `refused`: by CONNACK 5."""

    code = "link-failed"
    hint = "Check that the broker runs and that the agent is not revoked."

    def __init__(self, message: str, *, refused: bool = False, disbelieved: bool = False) -> None:
        """`disbelieved`: the server's certificate is of no CA that the agents know."""
        super().__init__(message)
        self.refused = refused
        self.disbelieved = disbelieved


class BadBehaviour(SimulatorError):
    """The file that says how agents misbehave cannot be read."""

    code = "bad-behaviour"
    hint = "Write JSON as docs/deployments.md shows it: faults by phase, regressions by metric."
