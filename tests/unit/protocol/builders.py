"""Messages that are right, for a test to spoil in one place."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tensorguard.protocol.messages import CertificateIssued, Command, Desired, FleetConfig, Grant
from tensorguard.protocol.topics import FrontKind, UpKind

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRUST_DOMAIN = "example.tensorguard"
AGENT_ID = UUID("0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")
OTHER_ID = UUID("0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2c")
BOOT_ID = "6c4a9f3e-6f0b-4d8e-9a77-0d6d1f2b3c4d"
SHA256 = "ab" * 32

GOOD: Mapping[UpKind | FrontKind, dict[str, Any]] = {
    UpKind.HEARTBEAT: {
        "boot_id": BOOT_ID,
        "boot_count": 3,
        "seq": 7,
        "sent_at": "2026-03-01T12:00:00Z",
        "status": "degraded",
        "cpu_percent": 12.5,
        "memory_percent": 50,
        "disk_percent": 99.9,
        "temperature_c": -12.5,
        "accelerators": [{"name": "gpu0", "util_percent": 1, "memory_percent": 2}],
        "package": {"name": "magika", "version": "1.0.0", "digest": SHA256},
        "agent_version": "0.1.0",
        "metrics": {"inferences": 12.0},
        "has": {"desired": {"epoch": 1, "revision": 4}, "config": 2, "trust": 1},
        "ledger": {"size": 10, "root": SHA256},
    },
    UpKind.EVENT: {
        "log_id": BOOT_ID,
        "number": 5,
        "oldest": 2,
        "at": "2026-03-01T12:00:00.123456Z",
        "type": "model.activated",
        "details": {"digest": SHA256, "deep": [{"a": None}]},
    },
    UpKind.PROGRESS: {
        "deployment_id": BOOT_ID,
        "state": "downloading",
        "percent": 40,
        "reason": "line one\nline two",
        "at": "2026-03-01T12:00:00Z",
    },
    UpKind.KEY_REQUEST: {
        "request_id": BOOT_ID,
        "package_digest": SHA256,
        "deployment_id": BOOT_ID,
    },
    UpKind.CSR: {"request_id": BOOT_ID, "csr": "-----BEGIN…", "reason": "renewal"},
    UpKind.REPLY: {"command_id": BOOT_ID, "state": "done", "result": {"exit": 0}},
    UpKind.WILL: {"boot_id": BOOT_ID},
    FrontKind.CONNECTED: {
        "fleet": "hospital-a",
        "agent_id": str(AGENT_ID),
        "serial": "1f",
        "peer": "127.0.0.1:4242",
        "at": "2026-03-01T12:00:00Z",
    },
    FrontKind.DISCONNECTED: {
        "fleet": "hospital-a",
        "agent_id": str(AGENT_ID),
        "reason": "kicked",
        "at": "2026-03-01T12:00:00Z",
    },
    FrontKind.DENIED: {
        "operation": "publish",
        "reason": "foreign-topic",
        "count": 3,
        "at": "2026-03-01T12:00:00Z",
    },
    FrontKind.ENROLL: {
        "certificate": "MIIB",
        "request": "e30=",
        "peer": "127.0.0.1:4242",
        "at": "2026-03-01T12:00:00Z",
    },
}

_SIGNED: dict[str, Any] = {
    "trust_domain": TRUST_DOMAIN,
    "issued_at": NOW,
    "expires_at": NOW + timedelta(hours=1),
}


def desired(**changes: Any) -> Desired:
    known: dict[str, Any] = {
        "agent_id": AGENT_ID,
        "deployment_id": None,
        "release": None,
        "package": None,
        "tags": {},
        "min_seq": 0,
        "allow_downgrade": False,
        "epoch": 1,
        "revision": 1,
    }
    return Desired(**(_SIGNED | known | changes))


def config(**changes: Any) -> FleetConfig:
    known: dict[str, Any] = {
        "fleet": "hospital-a",
        "epoch": 1,
        "revision": 1,
        "heartbeat_interval_s": 60,
    }
    return FleetConfig(**(_SIGNED | known | changes))


def grant() -> Grant:
    return Grant(**_SIGNED, agent_id=AGENT_ID, request_id=OTHER_ID, package_digest=SHA256)


def certificate() -> CertificateIssued:
    return CertificateIssued(
        **_SIGNED, agent_id=AGENT_ID, request_id=OTHER_ID, certificate="-----BEGIN…"
    )


def command() -> Command:
    return Command(**_SIGNED, agent_id=AGENT_ID, command_id=OTHER_ID, kind="restart")
