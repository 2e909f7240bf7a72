"""What can keep `tensorguard up` from running, each with the way out."""


class UpError(Exception):
    """The platform cannot be started on this machine as asked.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "up-failed"
    hint = "Read the lines above: the service that failed says why."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class ChildFailed(UpError):
    """A service ended, or stayed silent, before it was ready."""

    code = "service-failed"


class AlreadyRunning(UpError):
    """Another `tensorguard up` has this data directory."""

    code = "already-running"
    hint = "Stop it first, or choose another --data-dir."


class PortTaken(UpError):
    """Another program listens where a service is to listen."""

    code = "port-taken"


class BadAddress(UpError):
    """An address to listen on is malformed, not of this machine, or not allowed."""

    code = "bad-address"
    hint = "Addresses are HOST:PORT, for example 127.0.0.1:8080."


class BadSettings(UpError):
    """Settings contradict each other, or the stored ones cannot be read."""

    code = "bad-settings"
