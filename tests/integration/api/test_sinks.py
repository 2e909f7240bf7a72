"""`/sinks`: who may see and change them, what is never shown, and a test with its answer."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.context import ApiContext, open_context
from api.settings import ApiSettings
from tensorguard.services.people.access import Role
from tensorguard.siem.webhook import new_secret
from tests.integration.api.clients import Api
from tests.integration.api.conftest import CHEAP
from tests.integration.sinks.far_end import Authority, HttpsEnd, answers, serving
from tests.integration.sinks.strict_ends import TOKEN, StrictHec

SINKS = "/api/v1/sinks"


@pytest.fixture
async def context(platform: ApiSettings) -> AsyncIterator[ApiContext]:
    """The platform, with sinks allowed on this machine."""
    settings = platform.model_copy(update={"sink_networks": "127.0.0.1/32"})
    async with open_context(settings, hasher=CHEAP) as context:
        yield context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
async def _no_sinks_are_left(api: Api) -> AsyncIterator[None]:
    yield
    for one in (await api.admin.get(SINKS)).json()["items"]:
        assert (await api.admin.delete(f"{SINKS}/{one['id']}")).status_code == 204


async def create(api: Api, **body: Any) -> dict[str, Any]:
    made = await api.admin.post(SINKS, json=body)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = made.json()
    return found


def splunk(url: str = "https://splunk.example:8088", **config: Any) -> dict[str, Any]:
    return {"kind": "splunk", "url": url, **config}


async def test_everybody_reads_and_only_admins_change(api: Api) -> None:
    sink = await create(api, name="siem", config=splunk(), secret=TOKEN)
    path = f"{SINKS}/{sink['id']}"
    for role in (Role.VIEWER, Role.MLOPS, Role.COMPLIANCE):
        client = await api.as_role(role)
        for read in (SINKS, path, f"{path}/dead-letters"):
            assert (await client.get(read)).status_code == 200
        for change, body in (
            (SINKS, {"name": "x", "config": {"kind": "stdout"}}),
            (f"{SINKS}/test", {"config": {"kind": "stdout"}}),
            (f"{path}/pause", None),
            (f"{path}/resume", None),
            (f"{path}/test", None),
            (f"{path}/replay", {"next_index": 0}),
            (f"{path}/rotate-secret", {"secret": TOKEN}),
            (f"{path}/dead-letters/replay", None),
        ):
            assert (await client.post(change, json=body)).status_code == 403, change
        assert (await client.delete(path)).status_code == 403
        assert (await client.patch(path, json={"name": "y"})).status_code == 403
    assert (await api.nobody.get(SINKS)).status_code == 401


async def test_a_secret_is_taken_and_never_shown(api: Api) -> None:
    secret, other = new_secret(), new_secret()
    config = {"kind": "webhook", "url": "https://hooks.example/a"}
    sink = await create(api, name="hook", config=config, secret=secret, from_beginning=True)
    assert (sink["has_secret"], sink["state"], sink["next_index"]) == (True, "active", 0)
    path = f"{SINKS}/{sink['id']}"
    rotated = await api.admin.post(
        f"{path}/rotate-secret", json={"secret": other, "overlap_hours": 2}
    )
    assert rotated.status_code == 200, rotated.text
    assert rotated.json()["previous_until"] is not None
    shown = str((await api.admin.get(SINKS)).json()) + str((await api.admin.get(path)).json())
    stored = await api.dump("sinks", "secrets", "ledger_events", "idempotency_keys")
    for one in (secret, other):
        assert one not in shown
        assert one.removeprefix("whsec_") not in stored
    refused = await api.admin.post(f"{path}/rotate-secret", json={"secret": "whsec_short"})
    assert refused.status_code == 422
    assert "whsec_short" not in refused.text


async def test_a_sink_is_changed_by_those_who_have_seen_it(api: Api) -> None:
    sink = await create(api, name="file", config={"kind": "file", "file_name": "a.jsonl"})
    path = f"{SINKS}/{sink['id']}"
    assert (await api.admin.patch(path, json={"name": "b"})).status_code == 428
    etag = (await api.admin.get(path)).headers["etag"]
    changed = await api.admin.patch(path, json={"name": "b"}, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()["name"]) == (200, "b")
    again = await api.admin.patch(path, json={"name": "c"}, headers={"If-Match": etag})
    assert again.status_code == 412
    newest = {"If-Match": changed.headers["etag"]}
    other = await api.admin.patch(path, json={"config": {"kind": "stdout"}}, headers=newest)
    assert (other.status_code, other.json()["code"]) == (409, "sink-kind-fixed")
    [told] = await api.events("sink.changed", subject=sink["id"])
    assert told == {"changed": ["name"], "private_fields": False}  # names stand in private


async def test_two_sinks_never_write_to_one_file(api: Api) -> None:
    async def refused(answer: httpx.Response) -> None:
        assert (answer.status_code, answer.json()["code"]) == (409, "sink-file-taken")

    def file(name: str) -> dict[str, str]:
        return {"kind": "file", "file_name": name}

    first = await create(api, name="one", config=file("a.jsonl"))
    await refused(await api.admin.post(SINKS, json={"name": "two", "config": file("a.jsonl")}))
    second = await create(api, name="two", config=file("b.jsonl"))
    path = f"{SINKS}/{second['id']}"
    etag = {"If-Match": (await api.admin.get(path)).headers["etag"]}
    change = {"config": file("a.jsonl")}
    await refused(await api.admin.patch(path, json=change, headers=etag))
    same = await api.admin.patch(path, json={"config": file("b.jsonl")}, headers=etag)
    assert same.status_code == 200
    assert (await api.admin.delete(f"{SINKS}/{first['id']}")).status_code == 204
    assert (await api.admin.patch(path, json=change, headers=etag)).status_code == 200


async def test_pause_resume_and_replay_say_where_it_is(api: Api) -> None:
    sink = await create(api, name="out", config={"kind": "stdout"})
    path = f"{SINKS}/{sink['id']}"
    paused = await api.admin.post(f"{path}/pause")
    assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    assert (await api.admin.post(f"{path}/pause")).json()["code"] == "sink-state"
    replayed = await api.admin.post(f"{path}/replay", json={"next_index": 0})
    assert (replayed.status_code, replayed.json()["next_index"]) == (200, 0)
    beyond = await api.admin.post(f"{path}/replay", json={"next_index": 2**40})
    assert beyond.json()["code"] == "sink-place-invalid"
    assert (await api.admin.post(f"{path}/resume")).json()["state"] == "active"
    assert (await api.admin.post(f"{path}/dead-letters/replay")).json() == {"count": 0}


async def test_what_does_not_fit_is_refused(api: Api) -> None:
    async def refused(**body: Any) -> httpx.Response:
        answer = await api.admin.post(SINKS, json={"name": "x", **body})
        assert answer.status_code == 422, answer.text
        return answer

    await refused(config=splunk("http://splunk.example"), secret=TOKEN)
    await refused(config=splunk("https://user:pw@splunk.example"), secret=TOKEN)
    await refused(config=splunk())
    await refused(config=splunk(ca_pem="no certificate"), secret=TOKEN)
    await refused(config={"kind": "stdout"}, secret=TOKEN)
    await refused(config={"kind": "file", "file_name": "../kek"})
    await refused(config={"kind": "telepathy"})
    await create(api, name="x", config={"kind": "stdout"})
    twice = await api.admin.post(SINKS, json={"name": "x", "config": {"kind": "stdout"}})
    assert (twice.status_code, twice.json()["code"]) == (409, "sink-exists")


async def test_a_test_shows_the_status_and_what_was_answered(
    api: Api, authority: Authority
) -> None:
    strict = StrictHec()
    async with serving(HttpsEnd(strict, authority.server_context("localhost"))) as end:
        config = splunk(f"https://localhost:{end.port}", ca_pem=authority.pem)
        body = {"config": config, "secret": TOKEN}
        good = (await api.admin.post(f"{SINKS}/test", json=body)).json()
        assert (good["accepted"], good["status"]) == (True, 200)
        assert [one["metadata"]["labels"] for one in strict.taken] == [["test"]]
        bad = {"config": config, "secret": "another-token"}
        refused = (await api.admin.post(f"{SINKS}/test", json=bad)).json()
        assert (refused["accepted"], refused["code"], refused["status"]) == (False, "hec-4", 403)
        assert "Invalid token" in refused["answer"]
        end.troubles.append(answers(500, b"x" * 1000))
        sink = await create(api, name="siem", **body)
        stored = (await api.admin.post(f"{SINKS}/{sink['id']}/test")).json()
        assert (stored["code"], len(stored["answer"])) == ("http-500", 256)
        [told] = await api.events("sink.tested", subject=sink["id"])
        assert told == {"kind": "splunk", "accepted": False, "code": "http-500", "status": 500}


async def test_a_test_reaches_no_private_address(api: Api) -> None:
    for url in ("https://127.0.0.2:1", "https://10.0.0.1", "https://169.254.169.254/latest"):
        body = {"config": splunk(url), "secret": TOKEN}
        found = (await api.admin.post(f"{SINKS}/test", json=body)).json()
        assert (found["accepted"], found["code"]) == (False, "address-refused")
