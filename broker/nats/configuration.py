"""The configuration of one NATS server, rendered from what the platform knows.

Three accounts keep three worlds apart. AGENTS: MQTT clients and what the server stores for them.
PLATFORM: hubs, and the stream that they read. SYS: fronts, which admit, disconnect and watch.
Agents speak into PLATFORM, and hear from it, through exports of exactly the protocol's subjects.

Services are known by the SPIFFE id in their certificate (`verify_and_map`), agents by the auth
callout. `verify_and_map` stands at the MQTT listener too: there it maps nobody, and makes the
server ignore the user name of a CONNECT, which could otherwise name a service.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tensorguard.pki.identity import ServiceIdentity
from tensorguard.protocol.codec import MAX_PAYLOAD_BYTES
from tensorguard.protocol.subjects import DOWN, FRONT_UP, STREAM, UP

AGENTS: Final = "AGENTS"
PLATFORM: Final = "PLATFORM"
SYSTEM: Final = "SYS"
DEVICE_DOWN: Final = "tg.v1._enroll.*.down.*"

# Where a front asks about the stream that it publishes into.
STREAM_INFO: Final = f"tgs.{STREAM}.INFO"
# The server's own: what it keeps of MQTT sessions, and of retained messages (server/mqtt.go).
SESSIONS: Final = "$MQTT_sess"
RETAINED: Final = "$MQTT_rmsgs"
_TIDYING: Final = [
    (operation, stream)
    for stream in (SESSIONS, RETAINED)
    for operation in ("INFO", "UPDATE", "PURGE")
]

# What the server's log takes on disk: fronts read denied operations from it.
LOG_BYTES: Final = 16 * 1024**2
LOG_FILES: Final = 4
_GIB: Final = 1024**3
# JetStream's own headers and the reply subject travel within the limit.
_MAX_PAYLOAD_BYTES: Final = MAX_PAYLOAD_BYTES + 1024


@dataclass(frozen=True, slots=True)
class Files:
    """Where the server finds its certificate, key and CAs, and keeps what it stores."""

    certificate: Path
    key: Path
    cas: Path
    store: Path


@dataclass(frozen=True, slots=True)
class Cluster:
    """The other servers; a route needs the certificate of this platform's brokers, on both ends.

    Any agent's certificate is of the same CA, which is why the CA alone opens no route.
    """

    name: str
    listen: str
    routes: Sequence[str]  # host:port, the host as it stands in that node's certificate


@dataclass(frozen=True, slots=True)
class Node:
    """One server: `listen` is for services, `mqtt` for agents; both host:port."""

    name: str
    listen: str
    mqtt: str
    trust_domain: str
    issuer: str
    xkey: str
    files: Files
    connections: int = 19_000
    stored_bytes: int = 8 * _GIB
    replicas: int = 1
    cluster: Cluster | None = None
    log: Path | None = None


def render(node: Node) -> str:
    """Return the text of the server's configuration file; there is no secret in it."""
    hub, front = (ServiceIdentity(node.trust_domain, name).uri for name in ("hub", "broker"))
    parts: dict[str, object] = {
        "server_name": node.name,
        "listen": node.listen,
        "max_payload": _MAX_PAYLOAD_BYTES,
        "max_connections": node.connections,
        "max_subscriptions": 1024,
        "max_control_line": 4096,
        "write_deadline": "10s",
        "lame_duck_grace_period": "1s",
        "lame_duck_duration": "30s",  # NATS's least
        "tls": _tls(node.files) | {"handshake_first": True},
        "mqtt": {
            "listen": node.mqtt,
            "tls": _tls(node.files),
            "stream_replicas": node.replicas,
            "reject_qos2_publish": True,
            "downgrade_qos2_subscribe": True,
            "consumer_inactive_threshold": "5m",
        },
        "jetstream": {
            "store_dir": str(node.files.store),
            "max_memory_store": _GIB,
            "max_file_store": node.stored_bytes,
        },
        "system_account": SYSTEM,
        "accounts": {
            AGENTS: _agents_account(node.stored_bytes),
            PLATFORM: _platform_account(hub),
            SYSTEM: _system_account(front),
        },
        "authorization": {
            "timeout": 5,
            "auth_callout": {
                "issuer": node.issuer,
                "account": SYSTEM,
                "auth_users": [hub, front],
                "xkey": node.xkey,
            },
        },
    }
    if node.log is not None:
        parts |= _log(node.log)
    if node.cluster is not None:
        parts["cluster"] = _cluster(node.cluster, node.files, front)
    return "".join(f"{name}: {json.dumps(value, indent=2)}\n" for name, value in parts.items())


def agents_stream(operation: str, stream: str) -> str:
    """Return the subject by which a front speaks of a stream of the agents' account."""
    return f"tgs.{stream.removeprefix('$')}.{operation}"


def _tls(files: Files) -> dict[str, object]:
    return {
        "cert_file": str(files.certificate),
        "key_file": str(files.key),
        "ca_file": str(files.cas),
        "verify_and_map": True,
        "timeout": 10,
    }


def _agents_account(stored_bytes: int) -> dict[str, object]:
    # Sessions, and QoS 1 towards agents, of which there is none: taken from what hubs read.
    return {
        "jetstream": {"max_mem": _GIB // 4, "max_file": min(_GIB, stored_bytes // 8)},
        "exports": [
            {"stream": UP, "accounts": [PLATFORM]},
            *(
                {"service": f"$JS.API.STREAM.{operation}.{stream}", "accounts": [SYSTEM]}
                for operation, stream in _TIDYING
            ),
        ],
        "imports": [{"stream": {"account": PLATFORM, "subject": DOWN}}],
    }


def _platform_account(hub: str) -> dict[str, object]:
    return {
        "jetstream": "enabled",
        "exports": [
            {"stream": DOWN, "accounts": [AGENTS, SYSTEM]},
            {"service": FRONT_UP, "accounts": [SYSTEM]},
            {"service": f"$JS.API.STREAM.INFO.{STREAM}", "accounts": [SYSTEM]},
        ],
        "imports": [{"stream": {"account": AGENTS, "subject": UP}}],
        "users": [
            _user(
                hub,
                publish=["$JS.API.>", "$JS.ACK.>", DOWN],
                subscribe=["_INBOX.>"],
            )
        ],
    }


def _system_account(front: str) -> dict[str, object]:
    return {
        "imports": [
            {"stream": {"account": PLATFORM, "subject": DEVICE_DOWN}},
            {"service": {"account": PLATFORM, "subject": FRONT_UP}},
            {
                "service": {"account": PLATFORM, "subject": f"$JS.API.STREAM.INFO.{STREAM}"},
                "to": STREAM_INFO,
            },
            *(
                {
                    "service": {
                        "account": AGENTS,
                        "subject": f"$JS.API.STREAM.{operation}.{stream}",
                    },
                    "to": agents_stream(operation, stream),
                }
                for operation, stream in _TIDYING
            ),
        ],
        "users": [
            _user(
                front,
                publish=[
                    "$SYS.REQ.SERVER.*.KICK",
                    "$SYS.REQ.SERVER.*.CONNZ",
                    "$SYS.REQ.SERVER.PING.CONNZ",
                    "$SYS.REQ.SERVER.PING",
                    "$SYS.REQ.SERVER.*.HEALTHZ",
                    "$SYS.REQ.SERVER.*.SUBSZ",  # how many responders there are
                    "$SYS._INBOX.>",  # where a server waits for the callout's answer
                    "_INBOX.>",
                    FRONT_UP,
                    STREAM_INFO,
                    *(agents_stream(operation, stream) for operation, stream in _TIDYING),
                ],
                subscribe=[
                    "$SYS.REQ.USER.AUTH",
                    # CONNECT and DISCONNECT, by one subscription: so they stay in order.
                    f"$SYS.ACCOUNT.{AGENTS}.*",
                    "$SYS.SERVER.*.SHUTDOWN",
                    DEVICE_DOWN,
                    "_INBOX.>",
                ],
            )
        ],
    }


def _user(name: str, *, publish: Sequence[str], subscribe: Sequence[str]) -> dict[str, object]:
    return {
        "user": name,
        "allowed_connection_types": ["STANDARD"],
        "permissions": {
            "publish": {"allow": list(publish)},
            "subscribe": {"allow": list(subscribe)},
        },
    }


def _log(path: Path) -> dict[str, object]:
    return {
        "log_file": str(path),
        "logtime_utc": True,
        "logfile_size_limit": LOG_BYTES,
        "logfile_max_num": LOG_FILES,
    }


def _cluster(cluster: Cluster, files: Files, front: str) -> dict[str, object]:
    # No password: NATS compares none where the certificate decides (isRouterAuthorized in
    # server/auth.go), be it by `verify_and_map` or by `verify_cert_and_check_known_urls`. Names
    # in known URLs would let in every service that has such a name, on loopback the api.
    return {
        "name": cluster.name,
        "listen": cluster.listen,
        "no_advertise": True,
        "authorization": {"user": front, "timeout": 5},
        "routes": [f"tls://{route}" for route in cluster.routes],
        "tls": _tls(files),
    }
