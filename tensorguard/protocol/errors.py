"""What can be wrong with a message, each with a stable code and the way out."""


class ProtocolError(Exception):
    """A message, topic, envelope or join string is not what the protocol allows.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "protocol-error"
    hint = "Compare the message with docs/protocol.md."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class BadTopic(ProtocolError):
    """A topic is none of the three shapes, or a part of it has a bad form."""

    code = "bad-topic"
    hint = "Topics are tg/v1/<fleet>/<agent_id>/up|down/<kind> and tg/v1/<fleet>/all/down/<kind>."


class BadMessage(ProtocolError):
    """A payload is not the JSON that its kind asks for."""

    code = "bad-message"


class MessageTooLarge(ProtocolError):
    """A payload exceeds the limit of its kind."""

    code = "message-too-large"
    hint = "A heartbeat may have 8 KiB, any other message 64 KiB."


class BadJoinString(ProtocolError):
    """A join string is damaged or of an unknown version."""

    code = "bad-join-string"
    hint = (
        "Copy the whole string that starts with 'tg1.' once more, or mint a new enrollment token."
    )


class EnvelopeRefused(ProtocolError):
    """A signed message must not be believed; `code` says why."""

    code = "envelope-refused"
    hint = "Check the trust bundle's version and the clock of this device."


class BadEnvelope(EnvelopeRefused):
    """The envelope is not a well-formed DSSE envelope, or its payload is not of its kind."""

    code = "bad-envelope"


class UnknownSigner(EnvelopeRefused):
    """No key that the trust bundle gives this kind has signed the envelope."""

    code = "unknown-signer"


class BadSignature(EnvelopeRefused):
    """A known key's signature does not verify."""

    code = "bad-signature"


class WrongKind(EnvelopeRefused):
    """The payload type does not equal the kind that the topic names."""

    code = "wrong-kind"


class WrongRecipient(EnvelopeRefused):
    """The payload names another agent, fleet or trust domain."""

    code = "wrong-recipient"


class Expired(EnvelopeRefused):
    """The payload's expires_at has passed."""

    code = "expired"


class Stale(EnvelopeRefused):
    """The payload's (epoch, revision) is below what this agent already has."""

    code = "stale"
