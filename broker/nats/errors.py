"""What can go wrong between a front and its node."""

from broker.errors import FrontError


class NodeUnreachable(FrontError):
    """The node does not answer: sessions there can be neither seen nor ended."""

    code = "nats-node-unreachable"
    hint = "Look whether the NATS server of TG_NATS_URL runs, and believes this front's CA."


class BadCallout(FrontError):
    """A request of the auth callout is not one of a server of ours, or too late."""

    code = "bad-auth-callout"
    hint = "Give all nodes the same auth callout's keys, and the machines the same time."


class BadEvent(FrontError):
    """A message of a server is not what its version is known to send."""

    code = "bad-nats-event"
    hint = "Run the version of the NATS server that this release was tested with."
