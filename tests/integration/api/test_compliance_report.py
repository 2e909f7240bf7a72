"""The report over HTTP: a page of nothing but text, its twin in JSON, and proofs in both."""

import base64
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

from api.context import utc_now
from tensorguard.ledger.verify import Progress, read_key, verify
from tensorguard.services.compliance.listing import MOST_LISTED
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import AgentReleased, FleetConfigChanged
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tests.integration.api.clients import Api
from tests.integration.api.people import new_person
from tests.integration.api.standings import change, new_agents, record
from tests.integration.api.test_ledger import _sequence as sequence
from tests.integration.compliance.builders import confirmed, enrolled, revoked

REPORT, SUMMARY = "/api/v1/compliance/report", "/api/v1/compliance/summary"
HOSTILE = "</td><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e"
SINCE = datetime(2001, 1, 1, tzinfo=UTC)
"""Long before what other tests do."""
PERIOD = {"from": SINCE.isoformat(), "to": (SINCE + timedelta(days=90)).isoformat()}


class Reading(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


async def page_of(api: Api, **params: str) -> tuple[Reading, Any]:
    answer = await api.admin.get(REPORT, params=PERIOD | params)
    assert answer.status_code == 200, answer.text
    return Reading(answer.text), answer


async def json_of(api: Api, **params: str) -> dict[str, Any]:
    answer = await api.admin.get(REPORT, params=PERIOD | {"format": "json"} | params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_what_devices_and_people_write_is_text_on_a_page_without_scripts(api: Api) -> None:
    fleet = await api.new_fleet(HOSTILE)
    (agent,) = await new_agents(api, fleet, 1, now=utc_now())
    await change(api, tables.agents, agent, name=HOSTILE)
    by = Actor("user", str(uuid4()))
    await record(
        api,
        AgentReleased(by=by, fleet=fleet, agent_id=agent, reason=HOSTILE),
        FleetConfigChanged(
            by=by, fleet=fleet, revision=2, before={HOSTILE: "\x00\x9b"}, after={"x": [HOSTILE]}
        ),
        at=SINCE,
    )
    await sequence(api)
    page, answer = await page_of(api, fleet=fleet)
    plain = {"html", "head", "meta", "title", "style", "body", "header", "section"}
    plain |= {"h1", "h2", "h3", "p", "time", "dl", "div", "dd", "dt", "pre", "a", "bdi"}
    assert set(page.tags) <= plain | {"table", "thead", "tbody", "tr", "th", "td"}
    assert set(page.attributes) == {
        *("lang", "charset", "http-equiv", "content", "name"),
        *("class", "scope", "download", "href"),
    }
    assert all(one.startswith("data:application/zstd;base64,") for one in page.attributes["href"])
    # The agent's name, a reason, and both of the config; whole where no JSON is around it.
    assert page.text.count("<script>alert(1)</script>") == 4
    assert page.text.count(HOSTILE) == 2
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "sandbox allow-downloads" in policy
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_page_and_json_hold_the_listed_entries_with_proofs_that_verify(
    api: Api, tmp_path: Path
) -> None:
    fleet, agent = await api.new_fleet(), uuid4()
    await record(
        api,
        *(enrolled(fleet, uuid4()) for _ in range(3)),
        revoked(fleet, agent, 7),
        confirmed(fleet, agent, 7, front=123),
        at=SINCE,
    )
    await sequence(api)
    key = (await api.admin.get("/api/v1/ledger/key")).text.strip()
    found = await json_of(api, fleet=fleet)
    listed = [one for section in found["sections"] for one in section["listed"]]
    own = {one["leaf_index"]: one["leaf_hash"] for one in listed}
    page, _ = await page_of(api, fleet=fleet)
    (link,) = page.attributes["href"]
    (name,) = page.attributes["download"]
    assert name == f"compliance-{fleet}-2001-01-01-to-2001-04-01-evidence-1.ndjson.zst"
    assert f"tensorguard ledger verify {name}" in page.text
    attached = {"json": found["evidence"][0]["content"], "page": link.partition(",")[2]}
    for of, content in attached.items():
        path = tmp_path / of
        path.write_bytes(base64.b64decode(content, validate=True))
        verdict = verify(str(path), [read_key(key)], None, Progress(sys.stderr, wanted=False))
        assert (verdict.problem, verdict.entries) == (None, len(own)), of
    for index, leaf_hash in own.items():
        assert f"{index:,}" in page.text
        assert leaf_hash in page.text
    (receipt,) = [one["receipt"] for one in listed if one["type"] == "agent.revoked"]
    assert (receipt["state"], receipt["took_ms"]) == ("complete", 123)
    assert "123 ms" in page.text
    times = {"measured": 1, "left_out": 0, "median_ms": 123, "p99_ms": 123, "longest_ms": 123}
    assert found["revocation_times"] == times
    assert "Of 1 complete receipts half came within 123 ms of the order" in page.text
    assert key in page.text
    assert found["checkpoints"][0]["note"] in page.text


async def test_a_report_is_an_event_and_its_numbers_alone_are_none(api: Api) -> None:
    fleet = await api.new_fleet()
    await record(api, enrolled(fleet, uuid4()), at=SINCE)
    await sequence(api)
    compliance = await api.as_role(Role.COMPLIANCE)
    query = PERIOD | {"fleet": fleet}
    summary = (await compliance.get(SUMMARY, params=query)).json()
    assert (summary["numbers"]["enrolled"], summary["fleet"]) == (1, fleet)
    before = len(await api.events("compliance.report-exported"))
    answer = await compliance.get(REPORT, params=query)
    assert answer.status_code == 200
    *_, exported = await api.events("compliance.report-exported")
    assert len(await api.events("compliance.report-exported")) == before + 1
    assert exported["entries"] == len(set(re.findall(r"[0-9a-f]{64}(?=</bdi>)", answer.text)))
    assert exported["since"].startswith("2001-01-01")


async def test_names_of_people_are_for_those_who_administer_them_and_addresses_for_nobody(
    api: Api,
) -> None:
    fleet, person = await api.new_fleet(), await new_person(api)
    by = Actor("user", person.id)
    changed = FleetConfigChanged(by=by, fleet=fleet, revision=2, before={}, after={})
    await record(api, changed, at=SINCE)
    await sequence(api)
    seen = {}
    for role in (Role.COMPLIANCE, Role.ADMIN):
        client = await api.as_role(role)
        seen[role] = (await client.get(REPORT, params=PERIOD | {"fleet": fleet})).text
        assert person.email not in seen[role]
        assert person.id in seen[role]
    assert "Ada (user" in seen[Role.ADMIN]
    assert "Ada" not in seen[Role.COMPLIANCE]


async def test_who_may_not_read_the_ledger_gets_no_report(api: Api) -> None:
    for role in (Role.VIEWER, Role.MLOPS):
        client = await api.as_role(role)
        for path in (REPORT, SUMMARY):
            assert (await client.get(path)).status_code == 403
    wrong = ({"from": PERIOD["to"], "to": PERIOD["from"]}, {"from": "2001-01-01"}, {"fleet": "A"})
    for params in (*wrong, {"format": "pdf"}):
        for path in (REPORT, SUMMARY)[: 1 if "format" in params else 2]:
            assert (await api.admin.get(path, params=params)).status_code == 422, params
    assert (await api.admin.get(REPORT, params={"fleet": "nobody"})).status_code == 404


async def test_a_report_says_what_it_leaves_out(api: Api) -> None:
    fleet = await api.new_fleet()
    await record(api, *(enrolled(fleet, uuid4()) for _ in range(MOST_LISTED + 7)), at=SINCE)
    await sequence(api)
    page, _ = await page_of(api, fleet=fleet)
    assert f"The newest {MOST_LISTED} of {MOST_LISTED + 7} are listed; 7 are left out" in page.text
    assert f"/api/v1/ledger/export?epoch=1&fleet={fleet}" in page.text
    (section,) = (await json_of(api, fleet=fleet))["sections"]
    assert (len(section["listed"]), section["left_out"]) == (MOST_LISTED, 7)


async def test_where_releases_run_is_counted_by_what_agents_say(api: Api) -> None:
    fleet = await api.new_fleet()
    one, two, three, gone = await new_agents(api, fleet, 4, now=utc_now())
    digest = uuid4().bytes * 2
    for agent in (one, two, gone):
        await change(api, tables.agent_status, agent, running_digest=digest)
    await change(api, tables.agents, gone, status="revoked")
    assert three
    await sequence(api)
    running = (await json_of(api, fleet=fleet))["running"]
    assert [(row["digest"], row["agents"]) for row in running] == [(digest.hex(), 2), (None, 1)]
