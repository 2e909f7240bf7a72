"""Which tests stay together, and which come first, when a few workers share a run."""

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/e2e/", "tests/integration/platform/")
"""Folders whose tests share what is too expensive to have twice: a whole platform."""
ALONE = (
    "tests/integration/platform/test_demo.py",
    "tests/integration/platform/test_nats.py",
    "tests/integration/platform/test_second_start.py",
)
"""Files of those folders that start their own."""
FIRST = (*TOGETHER, "tests/integration/run/", "tests/contract/", "tests/integration/")
"""What takes long; what comes last is short, so that all workers end together."""


def unit_of(nodeid: str) -> str:
    """What a test is given to a worker with: its file, or a whole folder."""
    file, _, _ = nodeid.partition("::")
    if file in ALONE:
        return file
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def rank_of(nodeid: str) -> int:
    """When a test's turn is, the smallest first."""
    places = [place for place, start in enumerate(FIRST) if nodeid.startswith(start)]
    return min(places, default=len(FIRST))


class Scheduling(LoadScopeScheduling):
    """Hands out whole units, in the order of their ranks."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def remove_node(self, node: Any) -> str | None:
        """A test that ends its worker has failed; xdist would try it again, for ever."""
        for unit in self.assigned_work[node].values():
            for nodeid, is_done in unit.items():
                if not is_done:
                    unit[nodeid] = True
                    super().remove_node(node)
                    return nodeid
        return super().remove_node(node)


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests as a run takes them; those of one rank as they were collected."""
    return sorted(items, key=lambda item: rank_of(item.nodeid))
