"""What can keep the demo from going on."""


class DemoFailed(Exception):
    """A step of the demo did not work; what was done before it stays.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "demo-failed"
    hint = "Look at the logs in the folder 'demo' of the data directory, and run it again."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint
