"""Uplinks as a front hands them on."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hub.uplink import Uplink
from tensorguard.protocol import topics
from tensorguard.protocol.topics import FrontKind, FrontTopic, UpKind
from tests.unit.protocol.builders import GOOD

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FLEET = "hospital-a"
AGENT_ID = UUID("0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")
LOG_ID = UUID("6c4a9f3e-6f0b-4d8e-9a77-0d6d1f2b3c4d")


def uplink(
    kind: UpKind | FrontKind,
    *,
    agent_id: UUID = AGENT_ID,
    fleet: str = FLEET,
    at: datetime = NOW,
    **changes: Any,
) -> Uplink:
    """A good message of `kind`, but for the changes."""
    if isinstance(kind, UpKind):
        topic = topics.up(fleet, agent_id, kind)
    else:
        topic = str(FrontTopic("front-1", kind))
    return Uplink(topic, json.dumps(dict(GOOD[kind]) | changes).encode(), at)
