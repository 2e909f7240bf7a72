"""What can go wrong in the hub, each with a code and a hint for who operates it."""


class HubError(Exception):
    """Root of the hub's errors."""

    code = "hub-error"
    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class EngineMissing(HubError):
    """The broker engine that was chosen needs a library that is not installed."""

    code = "engine-missing"
    hint = "pip install 'tensorguard-platform[nats]'"
