"""What this agent is: its version, and the time before which it cannot be."""

from datetime import UTC, datetime

AGENT_VERSION = "0.1.0"
# The first part of the time floor: a clock that shows less than this is wrong. Raise at a release,
# never beyond it: an agent refuses what expires before this time.
BUILD_TIME = datetime(2025, 1, 1, tzinfo=UTC)
