"""Topics as NATS spells them: its MQTT listener turns `/` into `.`, `+` into `*`, `#` into `>`."""

from typing import Final

from tensorguard.protocol.errors import BadTopic

# The stream that keeps what agents and fronts say until hubs have committed it.
STREAM: Final = "UPLINKS"
# In the stream's metadata: how many partitions it was made with.
PARTITIONS: Final = "tensorguard-partitions"
UP: Final = "tg.v1.*.*.up.*"
DOWN: Final = "tg.v1.*.*.down.*"
# As the stream stores them: by partition, so that one hub at a time has all of an agent.
PARTITIONED: Final = "tgp.*.v1.*.*.up.*"
FRONT_UP: Final = "tgp.*.v1._front.*.up.*"

# Neither can stand in one of our topics, and each would mean something else in a subject.
_FOREIGN: Final = frozenset(". *>\t\r\n\0")
# draft-eastlake-fnv, section 5: the parameters of FNV-1a with 32 bits.
_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193


def to_subject(topic: str) -> str:
    """Return the NATS subject of a topic without wildcards. Raises: BadTopic."""
    if (
        not topic
        or _FOREIGN & set(topic)
        or any(level in ("", "+", "#") for level in _levels(topic))
    ):
        raise BadTopic(f"not a topic with a NATS subject: {topic[:200]!r}")
    return topic.replace("/", ".")


def to_topic(subject: str) -> str:
    """Return the topic of a NATS subject that `to_subject` made. Raises: BadTopic."""
    topic = subject.replace(".", "/")
    if "/" in subject or to_subject(topic) != subject:
        raise BadTopic(f"not the NATS subject of a topic: {subject[:200]!r}")
    return topic


def to_permissions(topic_filter: str) -> tuple[str, ...]:
    """Return the NATS permissions that let exactly this MQTT topic filter be subscribed to.

    `a/#` also matches `a` (MQTT 3.1.1 section 4.7.1.2), for which NATS makes a second subscription.
    Raises: BadTopic.
    """
    levels = _levels(topic_filter)
    if levels[-1] == "#":
        above = ".".join(_filter_level(level) for level in levels[:-1])
        return (above, f"{above}.>")
    return (".".join(_filter_level(level) for level in levels),)


def partition_of(speaker: str, partitions: int) -> int:
    """Return the partition (from 0) of an agent or a device, as a NATS server counts it.

    FNV-1a of 32 bits modulo `partitions` (nats-server, subject_transform.go, getHashPartition).
    """
    value = _FNV_OFFSET
    for byte in speaker.encode():
        value = (value ^ byte) * _FNV_PRIME & 0xFFFF_FFFF
    return value % partitions


def stored_in(partition: int) -> str:
    """Return what matches every subject of a partition, as the stream stores them."""
    return f"tgp.{partition}.>"


def front_subject(partition: int, front_id: str, kind: str) -> str:
    """Return the subject by which a front tells of an agent, or a device, of that partition."""
    return f"tgp.{partition}.v1._front.{front_id}.up.{kind}"


def topic_of_stored(subject: str) -> str:
    """Return the topic of a subject as the stream stores it, whatever it is: `parse_up` judges."""
    return "tg/" + subject.split(".", 2)[2].replace(".", "/")


def _filter_level(level: str) -> str:
    return "*" if level == "+" else to_subject(level)


def _levels(topic: str) -> list[str]:
    return topic.split("/")
