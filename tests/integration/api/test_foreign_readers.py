"""curl against the api as a process: who reads nothing of the ledger, and what is never said."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from api.settings import ApiSettings
from tensorguard.services.evidence.private_fields import ensure_privacy_key
from tensorguard.services.people.access import Role
from tests.integration.api.clients import Api, new_slug
from tests.integration.api.process import running_api
from tests.integration.api.test_ledger import _sequence as sequence
from tests.patience import PATIENCE_S

SECRET = "s3cret-of-a-sink-that-nobody-may-see"
KEY_BYTES = base64.b64encode(b"webhook-key-that-nobody-may-see!").decode()


class Served:
    """The process, and what it has logged."""

    def __init__(self, url: str, log: Path) -> None:
        self._url = url
        self._log = log

    async def curl(self, key: str, *paths: str, body: Any = None) -> list[tuple[int, str]]:
        """The status and the text of each answer; with a body they are asked for by POST."""
        options = [] if body is None else ["-H", "Content-Type: application/json", "-d", body]
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", "--noproxy", "*", "-H", f"Authorization: Bearer {key}", *options,
            "-w", "\x1f%{http_code}\x1e", *(f"{self._url}/api/v1{path}" for path in paths),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
        assert process.returncode == 0
        answers = [one.split("\x1f") for one in said.decode(errors="replace").split("\x1e")[:-1]]
        return [(int(status), text) for text, status in answers]

    @property
    def logged(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="module")
def served(platform: ApiSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("api") / "log"
    with running_api(platform, log) as (_, url):
        yield Served(url, log)


async def test_who_may_not_read_the_ledger_reads_nothing_of_it_by_any_route(
    api: Api, served: Served
) -> None:
    async with api.context.sessions.begin() as session:
        await ensure_privacy_key(session, api.context.kek, now=api.context.clock())
    email = f"{new_slug()}@example.org"
    made = await api.admin.post(
        "/api/v1/users", json={"email": email, "name": "Ada Nobody-Else", "role": "viewer"}
    )
    user = made.json().get("user", made.json())["id"]
    await sequence(api)
    found = await api.admin.get("/api/v1/ledger/entries", params={"subject": user})
    entry = json.loads(base64.b64decode(found.json()["items"][0]["entry"]))
    assert "private" in entry
    asked = json.dumps({"ids": [entry["id"]]})
    reads = [
        *(f"/ledger/{name}" for name in ("entries", "count", "checkpoint", "checkpoints", "key")),
        *("/ledger/types", "/ledger/forks", "/ledger/verify.py", "/ledger/export"),
        "/ledger/proof/inclusion?index=0&size=1",
        "/ledger/proof/consistency?first=1&second=1",
        *("/compliance/report", "/compliance/report?format=json", "/compliance/summary"),
    ]
    for role in (Role.VIEWER, Role.MLOPS):
        key = await api.new_key(role)
        answers = await served.curl(key, *reads)
        answers += await served.curl(key, "/ledger/private", "/ledger/erasures", body=asked)
        assert [status for status, _ in answers] == [403] * (len(reads) + 2)
        for _, text in answers:
            assert email not in text
            assert entry["id"] not in text
    # Who reads the ledger reads no private fields with it.
    compliance = await api.new_key(Role.COMPLIANCE)
    [(status, text)] = await served.curl(compliance, "/ledger/private", body=asked)
    assert (status, email in text) == (403, False)
    [(status, text)] = await served.curl(compliance, f"/ledger/entries?subject={user}")
    assert status == 200
    [item] = json.loads(text)["items"]
    assert email.encode() not in base64.b64decode(item["entry"])
    [(status, text)] = await served.curl(await api.new_key(Role.ADMIN), reads[0] + "?limit=1")
    assert status == 200


async def test_a_sinks_secret_is_in_no_answer_no_log_and_no_row_however_it_is_sent(
    api: Api, served: Served
) -> None:
    admin, viewer = await api.new_key(Role.ADMIN), await api.new_key(Role.VIEWER)
    whsec = f"whsec_{KEY_BYTES}"
    url = "https://127.0.0.1:1/"
    hook = {"kind": "webhook", "url": url}
    splunk = {"kind": "splunk", "url": url}
    name = new_slug()
    bodies: list[Any] = [
        {"name": name, "config": hook, "secret": whsec},
        {"name": name, "config": hook, "secret": whsec},  # there is one of that name
        {"name": name, "config": hook, "secret": whsec + "="},
        {"name": name, "config": splunk, "secret": f"{SECRET} with a space"},
        {"name": name, "config": splunk, "secret": SECRET * 20},
        {"name": name, "config": splunk, "secret": [SECRET]},
        {"name": name, "config": {**splunk, "secret": SECRET}},
        {"name": name, "config": splunk, "token": SECRET},
        {"name": name, "config": {"kind": "stdout"}, "secret": SECRET},
        {"name": name, "config": {"kind": "none"}, "secret": SECRET},
        {"name": name, "config": {**splunk, "url": f"https://me:{SECRET}@h/"}, "secret": SECRET},
    ]
    texts = []
    for path in ("/sinks", "/sinks/test"):
        for body in bodies:
            sent = body if path == "/sinks" else {k: v for k, v in body.items() if k != "name"}
            [(_, text)] = await served.curl(admin, path, body=json.dumps(sent))
            texts.append(text)
    [(_, broken)] = await served.curl(admin, "/sinks", body=f'{{"secret": "{SECRET}", oops')
    sink = json.loads(texts[0])
    changed = [f"/sinks/{sink['id']}/rotate-secret", f"/sinks/{sink['id']}/test"]
    again = json.dumps({"secret": whsec})
    texts += [text for _, text in await served.curl(admin, *changed, body=again)]
    seen = await served.curl(viewer, "/sinks", f"/sinks/{sink['id']}")
    assert [status for status, _ in seen] == [200, 200]
    missing = await served.curl(viewer, f"/sinks/{uuid4()}/test", body="{}")
    assert missing[0][0] == 403
    stored = await api.dump("sinks", "secrets", "ledger_events", "idempotency_keys")
    said = "".join([*texts, broken, *(text for _, text in seen), stored, served.logged])
    for secret in (SECRET, KEY_BYTES):
        assert secret not in said
    assert (await api.admin.delete(f"/api/v1/sinks/{sink['id']}")).status_code == 204
