"""One platform for all journeys, and what they need to find there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import find_browser, find_node, require_built_interface, run_journey
from tests.integration.platform.conftest import (  # the same fixtures, another platform
    new_platform as new_platform,
)
from tests.integration.platform.conftest import operator_of
from tests.integration.platform.operator import Operator
from tests.integration.platform.running import RunningPlatform

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="session")
def platform(new_platform: Callable[[], RunningPlatform]) -> Any:
    """A platform that serves the interface."""
    find_browser()
    find_node()
    require_built_interface()
    platform = new_platform()
    platform.launch(TG_SINK_NETWORKS="127.0.0.1/32")  # where the tests' far ends are
    platform.wait_ready()
    yield platform
    platform.stop()


@pytest.fixture(scope="session")
def operator(platform: RunningPlatform) -> Operator:
    operator = operator_of(platform)
    for role in ("viewer", "mlops", "compliance", "admin"):
        user = {"email": f"{role}@example.org", "name": f"The {role}", "role": role}
        operator.post("users", user | {"password": PASSWORD})
    return operator


@pytest.fixture
def journey(
    platform: RunningPlatform, operator: Operator, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Runs a journey as an administrator, unless it signs in as somebody else."""

    def run(name: str, **facts: Any) -> dict[str, Any]:
        account = {"email": "admin@example.org", "password": PASSWORD}
        measured = run_journey(name, tmp_path, url=platform.url, account=account, **facts)
        print(f"{name}: {measured}")  # figures, for whoever runs with -rP
        return measured

    return run
