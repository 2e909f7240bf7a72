"""What this agent is: its version, and the time before which it cannot be."""

from datetime import UTC, datetime

AGENT_VERSION = "0.1.0"
# The first part of the time floor: a clock that shows less than this is wrong. Raise at release.
BUILD_TIME = datetime(2026, 11, 1, tzinfo=UTC)
