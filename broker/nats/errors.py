"""What can go wrong with a NATS node: for its front, and for its keeper; each with the way out."""

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


class NodeError(FrontError):
    """A NATS node cannot run as asked."""

    code = "nats-node-failed"
    hint = "Read the end of TG_NATS_LOG: the server says there what it met."


class NatsServerMissing(NodeError):
    """There is no program to run."""

    code = "nats-server-missing"
    hint = "pip install 'tensorguard-platform[nats]', or name a nats-server in TG_NATS_SERVER."


class NodeInUse(NodeError):
    """Another server has the data folder."""

    code = "nats-node-in-use"
    hint = "Stop it first, or give this node another TG_NATS_DATA."


class NodeAddressTaken(NodeError):
    """Another program listens where the server is to listen."""

    code = "nats-address-taken"
    hint = "Stop what holds the port, or choose others: TG_NATS_LISTEN, TG_MQTT,"
    hint += " TG_NATS_CLUSTER_LISTEN."


class NodeStoreDamaged(NodeError):
    """What JetStream has stored cannot be read."""

    code = "nats-store-damaged"
    hint = (
        "Set the folder 'store' of TG_NATS_DATA aside and start again: agents send once more what"
    )
    hint += " no hub has acknowledged, and in a cluster the other nodes have copies."


class NodeDiskFull(NodeError):
    """The disk that JetStream stores on has no room."""

    code = "nats-disk-full"
    hint = "Make room on the disk of TG_NATS_DATA, or lower TG_NATS_STORED_BYTES."


class BadNodeSettings(NodeError):
    """Settings contradict each other."""

    code = "bad-nats-settings"
    hint = "docs/nats.md lists the settings of a node."


class StreamUnusable(FrontError):
    """The hubs' stream does not take what a front reports."""

    code = "stream-unusable"
    hint = "Start a hub with the NATS engine: it makes the stream."
