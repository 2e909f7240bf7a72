"""Why nothing can be sent to a sink."""


class SiemError(Exception):
    """A sink cannot be used as it is configured.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "siem-error"
    hint = "Look at the sink's configuration."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class AddressRefused(SiemError):
    """The name stands for an address that the platform must not be made to talk to."""

    code = "address-refused"
    hint = "Name a public host, or allow its network in TG_SINK_NETWORKS."


class BadSink(SiemError):
    """A sink's configuration or secret does not have the form that its kind asks for."""

    code = "bad-sink"
    hint = "Correct the named field."
