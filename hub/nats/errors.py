"""What can be wrong with NATS, in words that tell an operator what to do."""

import asyncio

import nats.errors
import nats.js.errors

from hub.errors import HubError

# What a connection, or a request over it, ends with when the server is away or not itself.
Unreachable = (OSError, asyncio.TimeoutError, nats.errors.Error)


class NatsError(HubError):
    """Root of what concerns the NATS servers."""

    code = "nats-error"


class StreamUnusable(NatsError):
    """There is a stream of our name that is not ours, or that the servers have no room for."""

    code = "stream-unusable"
    hint = "Remove or rename that stream, or give JetStream more room; the hub tries again."


def reason(error: BaseException) -> str:
    """Return what a log says of an error: nats-py's often have no text."""
    if isinstance(error, nats.js.errors.APIError) and error.description:
        return f"{error.description} ({error.err_code})"
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:300]
