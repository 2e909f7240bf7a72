"""The stream: what it keeps, for how long, and in how many partitions.

Limits, not interest: what is committed stays until a bound is reached, so that it can be read
again. Then the oldest go (DiscardPolicy OLD): normally they were committed long ago. Where hubs
have been away for so long that they were not, old heartbeats are worth least, and agents repeat
events until a hub acks them. To refuse the newest instead would lose the same number, but of what
matters most, and behind a PUBACK: NATS sends it whether the stream takes the message or not.
"""

from dataclasses import dataclass
from datetime import timedelta

import structlog
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, SubjectTransform
from nats.js.errors import APIError, NotFoundError

from hub.nats.errors import StreamUnusable, reason
from tensorguard.protocol.subjects import FRONT_UP, PARTITIONS, STREAM, UP

log = structlog.get_logger()

# Nobody sends message ids: the server's least window costs nothing.
_DUPLICATES_S = 0.1


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What is wanted of the stream; `partitions` counts only where there is no stream yet."""

    partitions: int = 16
    replicas: int = 1
    max_bytes: int = 4 * 1024**3
    max_age: timedelta = timedelta(hours=24)


async def ensure_stream(context: JetStreamContext, settings: StreamSettings) -> int:
    """Make the stream, or bring its bounds up to the settings; return how many partitions it has.

    The number of partitions is fixed when the stream is made: another one would put messages of an
    agent into another partition than those before them. Raises: StreamUnusable, nats' errors.
    """
    try:
        found = (await context.stream_info(STREAM)).config
    except NotFoundError:
        return await _create(context, settings)
    partitions = _partitions_of(found)
    if partitions != settings.partitions:
        log.warning("stream_keeps_its_partitions", partitions=partitions, set=settings.partitions)
    wanted = _config(settings, partitions)
    if _bounds(found) != _bounds(wanted):
        await context.update_stream(wanted)
        log.info("stream_changed", **_said(settings, partitions))
    return partitions


async def find_partitions(context: JetStreamContext) -> int:
    """Return how many partitions the stream has. Raises: StreamUnusable, nats' errors."""
    return _partitions_of((await context.stream_info(STREAM)).config)


def _partitions_of(config: StreamConfig) -> int:
    partitions = int((config.metadata or {}).get(PARTITIONS, 0))
    if partitions < 1:
        raise StreamUnusable(f"the stream {STREAM} was not made by a hub")
    return partitions


async def _create(context: JetStreamContext, settings: StreamSettings) -> int:
    try:
        await context.add_stream(_config(settings, settings.partitions))
    except APIError as error:
        if error.err_code == _NAME_IN_USE:  # another hub was quicker
            return await ensure_stream(context, settings)
        raise StreamUnusable(f"no stream could be made: {reason(error)}") from None
    log.info("stream_created", **_said(settings, settings.partitions))
    return settings.partitions


_NAME_IN_USE = 10058  # with another configuration; with the same one it is no error


def _config(settings: StreamSettings, partitions: int) -> StreamConfig:
    fleet, agent, kind = (f"{{{{wildcard({place})}}}}" for place in (1, 2, 3))
    return StreamConfig(
        name=STREAM,
        description="What agents and broker fronts say, until hubs have committed it and beyond",
        subjects=[UP, FRONT_UP],
        subject_transform=SubjectTransform(
            src=UP, dest=f"tgp.{{{{partition({partitions},2)}}}}.v1.{fleet}.{agent}.up.{kind}"
        ),
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        max_bytes=settings.max_bytes,
        max_age=settings.max_age.total_seconds(),
        num_replicas=settings.replicas,
        duplicate_window=_DUPLICATES_S,
        metadata={PARTITIONS: str(partitions)},
    )


def _bounds(config: StreamConfig) -> tuple[object, ...]:
    return (config.max_bytes, config.max_age, config.num_replicas, sorted(config.subjects or []))


def _said(settings: StreamSettings, partitions: int) -> dict[str, object]:
    return {
        "stream": STREAM,
        "partitions": partitions,
        "replicas": settings.replicas,
        "max_bytes": settings.max_bytes,
        "max_age_s": settings.max_age.total_seconds(),
    }
