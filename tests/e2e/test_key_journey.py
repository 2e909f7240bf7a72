"""What people do with keys that wrap keys, done in a real browser against a whole platform."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from tensorguard.vault.opening import FLEET_KEKS_FOLDER
from tests.integration.platform.operator import Operator
from tests.integration.platform.running import RunningPlatform, run_json

pytestmark = pytest.mark.timeout(300)


def test_a_customer_s_key_is_imported_rotated_taken_away_and_ended_and_the_platform_s_rewrapped(
    journey: Callable[..., dict[str, Any]], platform: RunningPlatform, operator: Operator
) -> None:
    fleet = f"f-{secrets.token_hex(4)}"
    operator.create_fleet(fleet)
    approver = f"second-{secrets.token_hex(4)}@example.org"
    made = run_json(
        *("admin", "user", "create", "--email", approver, "--role", "admin"),
        *("--data-dir", str(platform.data)),
    )
    journey(
        "keys",
        patience_s=250,
        fleet=fleet,
        keks=str(platform.data / FLEET_KEKS_FOLDER),
        approver={"email": approver, "password": made["password"]},
    )
    entries = operator.entries(type="kek", fleet=fleet)
    assert [entry["type"].removeprefix("kek.") for entry in entries] == [
        *("added", "imported", "expiring", "rotated", "version-disabled", "version-enabled"),
        *("version-destroyed", "unusable", "usable", "retired", "replaced"),
    ]
