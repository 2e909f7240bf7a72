"""Reports and exports that many ask for at once, or take slowly, leave the others their share."""

import asyncio

import httpx

from tests.integration.api.clients import Api
from tests.integration.api.test_ledger import _sequence as sequence

REPORT = "/api/v1/compliance/report"
TWENTY = 20


async def test_of_twenty_reports_at_once_two_are_made_eight_wait_and_nobody_else_does(
    api: Api,
) -> None:
    fleet = await api.new_fleet()
    await sequence(api)
    params = {"fleet": fleet, "from": "2024-01-01T00:00:00Z", "to": "2026-12-31T00:00:00Z"}

    async def ask(path: str) -> httpx.Response:
        return await api.admin.get(path, params=params)

    turns = api.context.reports
    async with turns.one(), turns.one():  # two that take for ever
        paths = [REPORT, "/api/v1/compliance/summary"] * (TWENTY // 2)
        asked = [asyncio.create_task(ask(path)) for path in paths]
        refused: set[asyncio.Task[httpx.Response]] = set()
        while len(refused) < TWENTY - 8:
            waiting = set(asked) - refused
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused |= done
        for task in refused:
            answer = task.result()
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert int(answer.headers["retry-after"]) > 0
        # Those who wait hold no connection: there are four.
        assert (await api.admin.get("/api/v1/fleets")).status_code == 200
    rest = [await task for task in asked if task not in refused]
    assert [answer.status_code for answer in rest] == [200] * 8


async def test_twenty_exports_at_once_are_whole_and_share_two_turns(api: Api) -> None:
    await api.new_fleet()
    await sequence(api)
    path = "/api/v1/ledger/export"
    params = {"epoch": "1", "start": "0", "end": "1", "without": "agent.reported"}
    answers = await asyncio.gather(*(api.admin.get(path, params=params) for _ in range(TWENTY)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content[:4] for answer in answers} == {b"\x28\xb5\x2f\xfd"}


async def test_whoever_tries_out_sinks_takes_the_api_from_nobody(api: Api) -> None:
    turns = api.context.sink_tests
    body = {"config": {"kind": "file", "file_name": "tried-out.jsonl"}}
    async with turns.one(), turns.one():
        tasks = [
            asyncio.create_task(api.admin.post("/api/v1/sinks/test", json=body)) for _ in range(9)
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result().status_code for one in done] == [503]
        assert (await api.admin.get("/api/v1/fleets")).status_code == 200
    rest = [await task for task in tasks if task not in done]
    assert [answer.json()["accepted"] for answer in rest] == [True] * 8
