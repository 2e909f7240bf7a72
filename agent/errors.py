"""What can keep an agent from joining or running, each with the way out."""


class AgentError(Exception):
    """The agent cannot go on.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "agent-error"
    hint = "See docs/agent.md."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class StateNotWritable(AgentError):
    """The state directory cannot be written."""

    code = "state-not-writable"
    hint = "Free space, or name a directory of your own with --state-dir."


class StateDamaged(AgentError):
    """A file in the state directory cannot be read back."""

    code = "state-damaged"
    hint = "Restore the state directory, or remove it and enrol the device again."


class StateInUse(AgentError):
    """Another agent runs on this state directory."""

    code = "state-in-use"
    hint = "Stop the other agent, or name another directory with --state-dir."


class NotEnrolled(AgentError):
    """There is no agent in the state directory."""

    code = "not-enrolled"
    hint = "Enrol first: tensorguard agent enroll JOIN"


class AlreadyEnrolled(AgentError):
    """The state directory already belongs to an agent."""

    code = "already-enrolled"
    hint = "Name another directory with --state-dir, or remove this one to enrol anew."


class Unreachable(AgentError):
    """The platform's device URL does not answer."""

    code = "platform-unreachable"
    hint = "Check the network, and that the host and port in the join string are reachable."


class PinMismatch(AgentError):
    """Whoever answers at the device URL has not the CA that the join string names."""

    code = "pin-mismatch"
    hint = "Something stands between, or the platform has a new CA: mint a new enrollment token."


class NotTheServer(AgentError):
    """The server's certificate does not verify against the pinned CA, or names another host."""

    code = "server-not-verified"
    hint = "Check this machine's clock, and that the platform's --public-host has this name."


class EnrollmentRefused(AgentError):
    """The platform refused to enrol this device."""

    code = "enrollment-refused"
    hint = "Mint a new enrollment token and use its join string."


class EnrollmentNotApproved(AgentError):
    """An operator has not approved this device yet."""

    code = "enrollment-pending"
    hint = "Have it approved, and run the same command again: nothing is used up by waiting."


class PlatformBusy(AgentError):
    """The platform asks to come back later."""

    code = "platform-busy"
    hint = "Run the same command again in a while: nothing is lost."

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeviceCertificateUnusable(AgentError):
    """The certificate or key that the manufacturer gave this device cannot be used."""

    code = "device-certificate-unusable"
    hint = "Name PEM files with --device-cert and --device-key; keys in a TPM are not supported."


class BadEnrollmentUrl(AgentError):
    """The platform's enrollment URL, CA file or pin is not one."""

    code = "bad-enrollment-url"
    hint = "Give --url mqtts://HOST:PORT, and --ca FILE or --ca-pin with 64 hex digits."


class BadAnswer(AgentError):
    """The platform answered something that must not be believed."""

    code = "bad-answer"
    hint = "Check the platform's version; nothing was stored."
