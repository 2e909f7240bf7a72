"""What can go wrong in a broker front, each with a stable code and the way out."""


class FrontError(Exception):
    """A broker front cannot do what was asked.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "front-error"
    hint = "Look at the broker's log."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class ListenFailed(FrontError):
    """The address for agents cannot be listened on."""

    code = "listen-failed"
    hint = "Stop what holds the port, or choose another address with --mqtt HOST:PORT."


class CertificateRefused(FrontError):
    """Whoever holds the CA's key does not certify this front, or gave it something else."""

    code = "front-certificate-refused"
    hint = "Name this front's hosts in TG_PUBLIC_HOST or TG_FRONT_HOSTS of the hub and the api."


class PacketRefused(FrontError):
    """A peer sent bytes that are not an MQTT 3.1.1 packet within our limits."""

    code = "packet-refused"
    hint = "Speak MQTT 3.1.1 with the limits of docs/protocol.md."


class MalformedPacket(PacketRefused):
    """A packet does not have the form that MQTT 3.1.1 gives it."""

    code = "malformed-packet"


class OversizePacket(PacketRefused):
    """A packet is longer than the front accepts at this point."""

    code = "oversize-packet"


class ConnectRefused(FrontError):
    """A CONNECT is not admitted; `return_code` goes into CONNACK (MQTT 3.1.1 table 3.1)."""

    code = "connect-refused"
    hint = "Connect with the agent's own certificate, client id and last will."

    def __init__(self, message: str, *, return_code: int, operation: str = "connect") -> None:
        super().__init__(message)
        self.return_code = return_code
        self.operation = operation
