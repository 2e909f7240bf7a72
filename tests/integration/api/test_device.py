"""The devices' routes, without a socket: what joining answers, and what it refuses."""

import base64
import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from api.context import ApiContext, utc_now
from tensorguard.pki.identity import spki_sha256
from tensorguard.protocol import codec
from tensorguard.protocol.join import parse_join
from tests.integration.api.clients import Api
from tests.integration.api.devices import ENROLL, JSON, join_string
from tests.integration.enrollment.builders import Device


async def _body(api: Api, **changes: Any) -> dict[str, Any]:
    join = await join_string(api, await api.new_fleet())
    request: dict[str, Any] = json.loads(codec.encode(Device().request(join)))
    return request | changes


async def test_a_device_joins_and_gets_everything_that_it_needs(api: Api) -> None:
    fleet = await api.new_fleet()
    join = await join_string(api, fleet)
    ca = x509.load_pem_x509_certificate((await api.device.get("/device/v1/ca")).content)
    assert spki_sha256(ca) == parse_join(join).ca
    request = codec.encode(Device().request(join))
    answer = await api.device.post(ENROLL, content=request, headers=JSON)
    assert answer.status_code == 201
    enrolled = answer.json()
    assert (enrolled["status"], enrolled["fleet"]) == ("active", fleet)
    assert enrolled["mqtt"] == {"host": "127.0.0.1", "port": api.context.settings.mqtt.port}
    x509.load_pem_x509_certificate(enrolled["certificate"].encode()).verify_directly_issued_by(ca)
    for name in ("config", "trust"):
        assert set(enrolled[name]) == {"payload", "payloadType", "signatures"}
    again = await api.device.post(ENROLL, content=request, headers=JSON)
    assert (again.status_code, again.json()) == (201, enrolled)


async def test_a_manual_token_answers_pending(api: Api) -> None:
    join = await join_string(api, await api.new_fleet(), approval="manual")
    request = codec.encode(Device().request(join))
    answer = await api.device.post(ENROLL, content=request, headers=JSON)
    assert answer.status_code == 202
    assert answer.json()["status"] == "pending"
    assert answer.json()["poll_after_s"] > 0


async def test_trust_bundles_are_served_one_by_one(api: Api) -> None:
    envelope = (await api.device.get("/device/v1/trust/1")).json()
    payload = json.loads(base64.b64decode(envelope["payload"]))
    assert payload["version"] == 1
    for version, status in ((10**6, 404), (0, 422), (-1, 422), (2**63, 422), ("x", 422)):
        answer = await api.device.get(f"/device/v1/trust/{version}")
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"token": "a" * 43}, 401, "enrollment-token-unknown"),
        ({"token": ""}, 422, "bad-message"),
        ({"csr": "not a csr"}, 422, "csr-malformed"),
        ({"csr": None}, 422, "bad-message"),
        ({"encryption_key": "AAAA"}, 422, "bad-message"),
        ({"name": ""}, 422, "enrollment-facts-invalid"),
        ({"name": "nul\u0000"}, 422, "bad-message"),
        ({"facts": {"a": "\u0000"}}, 422, "enrollment-facts-invalid"),
        ({"facts": []}, 422, "bad-message"),
        ({"csr": "a" * 1_000_000}, 413, "body-too-large"),
    ],
)
async def test_what_cannot_be_an_enrollment_is_refused_and_stores_nothing(
    api: Api, changes: dict[str, Any], status: int, code: str
) -> None:
    body = await _body(api, **changes)
    before = await api.dump("agents", "certificates", "enrollment_tokens")
    answer = await api.device.post(ENROLL, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await api.dump("agents", "certificates", "enrollment_tokens") == before
    if isinstance(changes.get("token"), str) and changes["token"]:
        assert changes["token"] not in answer.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":' * 5000])
async def test_a_body_that_is_no_request_is_refused(api: Api, body: bytes) -> None:
    answer = await api.device.post(ENROLL, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-message")


async def test_a_form_is_not_an_enrollment(api: Api) -> None:
    answer = await api.device.post(ENROLL, data={"token": "x"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")


async def test_a_flood_of_failures_becomes_a_few_entries_and_is_slowed_down(
    context: ApiContext,
) -> None:
    passed, started = timedelta(), utc_now()
    moving = dataclasses.replace(context, clock=lambda: started + passed)
    async with Api(moving) as api:
        before = len(await api.events("agent.enrollment-failed"))
        body = await _body(api, token="b" * 43)

        async def statuses(count: int) -> list[int]:
            return [(await api.device.post(ENROLL, json=body)).status_code for _ in range(count)]

        assert await statuses(310) == [401] * 300 + [429] * 10
        assert (await api.device.get("/device/v1/ca")).status_code == 200
        passed += timedelta(seconds=1)
        assert await statuses(10) == [401] * 5 + [429] * 5
        assert len(await api.events("agent.enrollment-failed")) == before
        async with context.sessions.begin() as session:
            later = moving.clock() + timedelta(minutes=2)
            await context.enrollment_failures.flush(session, now=later)
        assert len(await api.events("agent.enrollment-failed")) <= before + 2
