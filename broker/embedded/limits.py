"""How much of anything a front holds: every queue, packet and wait has its bound here."""

from dataclasses import dataclass
from datetime import timedelta

from tensorguard.protocol.codec import MAX_PAYLOAD_BYTES
from tensorguard.services.fleets.fronts import SESSIONS_END_AFTER

# Topic, its length, packet id: what a PUBLISH carries beside its payload.
_PUBLISH_HEADER_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one front; the defaults fit one process of 20,000 file descriptors."""

    # Agents at once; hubs are admitted beyond it.
    connections: int = 10_000
    # Accepted but not yet admitted: in the TLS handshake, or silent after it. At 4 ms of CPU each,
    # as many honest peers are through in half a second; who takes six times that makes room for
    # others when `pending` is full.
    pending: int = 128
    evict_after: timedelta = timedelta(seconds=3)
    handshake_timeout: timedelta = timedelta(seconds=10)
    connect_timeout: timedelta = timedelta(seconds=10)
    close_timeout: timedelta = timedelta(seconds=1)
    # MQTT 3.1.1 cannot tell a client to ping more often, so silence ends at 1.5 times the smaller.
    keep_alive: timedelta = timedelta(seconds=1200)
    sweep_every: timedelta = timedelta(seconds=1)
    # How long a connection may last, for those who have only one thing to say.
    connection_time: timedelta | None = None

    # CONNECT, SUBSCRIBE and UNSUBSCRIBE: ours have less than 1 KiB.
    control_bytes: int = 4096
    packet_bytes: int = MAX_PAYLOAD_BYTES + _PUBLISH_HEADER_BYTES
    will_bytes: int = 1024

    # Beyond the burst the front stops reading from the agent instead of dropping.
    messages_per_s: float = 100.0
    message_burst: int = 1000
    denials_per_minute: int = 100
    # A device that does not read what it is sent is closed; the next heartbeat repairs the rest.
    unsent_bytes: int = 256 * 1024

    # Refused handshakes of one address (an IPv6 /64), of all behind its NAT together: the admitted
    # count for nothing. At 2 ms of CPU each.
    refusals_per_s: float = 10.0
    refusal_burst: int = 100
    # More refused handshakes than this, from anywhere: an address that has had none admitted for
    # `storm_trust` waits after each refusal, twice as long as before.
    storm_refusals_per_s: float = 20.0
    storm_refusal_burst: int = 200
    storm_trust: timedelta = timedelta(minutes=10)
    storm_wait: timedelta = timedelta(seconds=30)
    storm_wait_most: timedelta = timedelta(minutes=5)
    # Addresses that are remembered, those refused or admitted last.
    sources: int = 20_000
    # Who may not try hangs so long: a socket without TLS and without a reader costs next to
    # nothing, and keeps its peer from coming back at once.
    hold: timedelta = timedelta(seconds=5)
    held: int = 2000

    # Without the database for so long, nobody who is connected is known to be unrevoked. The
    # kill switch's receipt counts on it (tensorguard/services/fleets/fronts.py).
    unconfirmed: timedelta = SESSIONS_END_AFTER

    hub_in_flight: int = 2000
    hub_queue_messages: int = 10_000
    hub_queue_bytes: int = 32 * 1024 * 1024
    # How long a full hub queue stops reading before the front drops: less than a keep-alive, so
    # that a slow hub does not make all agents reconnect.
    hub_stall: timedelta = timedelta(seconds=15)
    # Denials are summed for so long, under at most so many keys.
    report_every: timedelta = timedelta(seconds=1)
    denied_keys: int = 1000
