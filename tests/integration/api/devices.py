"""Devices that join over the device listener's application."""

from typing import Any

from tensorguard.protocol import codec
from tests.integration.api.clients import Api
from tests.integration.enrollment.builders import Device

ENROLL = "/device/v1/enroll"
JSON = {"Content-Type": "application/json"}


async def join_string(api: Api, fleet: str, **terms: Any) -> str:
    """A fresh join string for the fleet."""
    made = await api.admin.post(
        f"/api/v1/fleets/{fleet}/enrollment-tokens", json={"ttl_s": 3600, **terms}
    )
    assert made.status_code == 201, made.text
    return str(made.json()["join"])


async def enroll(
    api: Api, fleet: str, *, name: str = "ward-3", join: str | None = None, **facts: Any
) -> str:
    """A new agent's id."""
    device = Device(name=name, facts=facts)
    request = device.request(join or await join_string(api, fleet))
    answer = await api.device.post(ENROLL, content=codec.encode(request), headers=JSON)
    assert answer.status_code in (201, 202), answer.text
    return str(answer.json()["agent_id"])
