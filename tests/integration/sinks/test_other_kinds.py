"""Datadog, webhooks, syslog and JSON lines: each kind's own rules, against strict far ends."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tensorguard.services.sinks import sink_changes
from tensorguard.siem.item import Batch, Item
from tensorguard.siem.ocsf import shortened
from tensorguard.siem.webhook import new_secret
from tests.integration.sinks.far_end import NAME, HttpsEnd, answers, cut_after_accept, serving
from tests.integration.sinks.lab import Lab
from tests.integration.sinks.strict_ends import (
    API_KEY,
    StrictDatadog,
    StrictWebhook,
    index_of,
)
from tests.integration.sinks.syslog_end import MuteEnd, SyslogEnd


@pytest.fixture
async def collector(lab: Lab) -> AsyncIterator[SyslogEnd]:
    end = SyslogEnd(lab.authority.server_context())
    await end.start()
    yield end
    await end.stop()


def url_of(end: HttpsEnd) -> str:
    return f"https://{NAME}:{end.port}"


async def test_datadog_gets_what_it_would_not_cut_or_drop(lab: Lab) -> None:
    strict = StrictDatadog(lab.clock)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink("datadog", API_KEY, url=url_of(end), tags=["env:test"])
        await lab.write(1_200)
        export = lab.export(sink)
        end.troubles += [answers(429, Retry_After="30"), answers(408), answers(500)]
        for code in ("http-429", "http-408", "http-500"):
            await lab.drain(export)
            assert (await lab.get(sink)).trouble_code == code
            lab.clock.advance(minutes=10)
        await lab.drain(export)
        await lab.sign()
        await lab.drain(export)
        assert strict.indexes == list(range(await lab.size()))
        assert {log["ddsource"] for log in strict.taken} == {"tensorguard"}
        await export.close()


@pytest.mark.parametrize("status", [401, 403])
async def test_datadog_alerts_where_the_key_is_not_taken(lab: Lab, status: int) -> None:
    strict = StrictDatadog(lab.clock)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink("datadog", API_KEY, url=url_of(end))
        await lab.write(5)
        echo = f'{{"you sent": "{API_KEY}"}}'.encode()
        end.troubles.append(answers(status, echo))
        export = lab.export(sink)
        assert await lab.drain(export) is None
        stopped = await lab.get(sink)
        assert (stopped.state, stopped.answer_status) == ("stopped", status)
        assert stopped.answer_text == '{"you sent": "[secret]"}'
        await export.close()


@pytest.mark.parametrize("kind", ["datadog", "webhook"])
async def test_what_is_killed_in_mid_stream_gets_the_rest_in_order_when_it_is_back(
    lab: Lab, kind: str
) -> None:
    secret = API_KEY if kind == "datadog" else new_secret()
    strict = StrictDatadog(lab.clock) if kind == "datadog" else StrictWebhook(secret)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink(kind, secret, url=url_of(end))
        await lab.write(1_400)
        export = lab.export(sink)
        await export.step()
        reached = (await lab.get(sink)).next_index
        assert strict.indexes == list(range(reached))
        assert 0 < reached < 1_401
        await end.stop()
        await lab.drain(export)
        assert (await lab.get(sink)).trouble_code == "connection-failed"
        await end.start()
        lab.clock.advance(seconds=5)
        end.troubles.append(cut_after_accept)
        await lab.drain(export)
        lab.clock.advance(seconds=5)
        await lab.drain(export)
        # Twice is what was taken before the cut, and nothing else; a webhook's id tells.
        once = list(dict.fromkeys(strict.indexes))
        assert once == list(range(1_401))
        if kind == "datadog":
            again = strict.indexes[reached : len(strict.indexes) - (1_401 - reached)]
            assert strict.indexes == [*range(reached), *again, *range(reached, 1_401)]
            assert again == list(range(reached, reached + len(again)))
        else:
            assert len(strict.indexes) == 1_401
        await export.close()


async def test_datadog_that_takes_less_gets_smaller_batches(lab: Lab) -> None:
    strict = StrictDatadog(lab.clock)
    strict.most_items = 100
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink("datadog", API_KEY, url=url_of(end))
        await lab.write(500)
        export = lab.export(sink)
        await lab.drain(export)
        assert strict.indexes == list(range(501))
        await export.close()


async def test_what_is_too_old_for_datadog_is_sent_with_its_own_time_beside_it_and_told(
    lab: Lab,
) -> None:
    strict = StrictDatadog(lab.clock)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink("datadog", API_KEY, url=url_of(end))
        await lab.write(20)
        written = lab.clock()
        lab.clock.advance(hours=19)
        export = lab.export(sink)
        await lab.drain(export)
        assert len(strict.taken) == 21
        assert {log["original_time"] for log in strict.taken} == {written.isoformat()}
        assert await lab.told("sink.gap") == [
            {"reason": "too-old", "count": 21, "first_index": 0, "last_index": 20}
        ]
        await export.close()


async def test_a_webhook_is_signed_with_both_secrets_while_one_takes_the_others_place(
    lab: Lab,
) -> None:
    old, new = new_secret(), new_secret()
    strict = StrictWebhook(old)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink("webhook", old, url=f"{url_of(end)}/hook", batch_items=50)
        await lab.write(99)
        export = lab.export(sink)
        end.troubles.append(cut_after_accept)
        await lab.drain(export)
        lab.clock.advance(seconds=2)
        await lab.drain(export)
        # The same message, by its id: whoever receives it knows.
        assert strict.ids[0] == strict.ids[1]
        assert len(strict.ids) == 3
        assert strict.indexes == list(range(100))

        await lab.change(
            sink_changes.rotate_secret, lab.kek, sink.id, secret=new, overlap=timedelta(hours=1)
        )
        strict.secrets = [old, new]
        await lab.write(10)
        await lab.drain(export)
        assert strict.indexes == list(range(111))  # and the events of the sink itself
        strict.secrets = [new]
        lab.clock.advance(hours=2)
        # The test's receiver has a clock of its own.
        signature = end.requests[-1].headers["webhook-signature"]
        assert len(signature.split(" ")) == 2
        end.troubles.append(answers(204))
        await lab.write(1)
        await lab.drain(export)
        assert len(end.requests[-1].headers["webhook-signature"].split(" ")) == 1
        await export.close()


async def test_a_webhook_that_is_gone_is_not_called_again(lab: Lab) -> None:
    secret = new_secret()
    async with serving(HttpsEnd(StrictWebhook(secret), lab.authority.server_context())) as end:
        sink = await lab.sink("webhook", secret, url=url_of(end))
        await lab.write(1)
        end.troubles.append(answers(410))
        export = lab.export(sink)
        assert await lab.drain(export) is None
        assert (await lab.get(sink)).trouble_code == "http-410"
        await export.close()


async def test_redirects_are_not_followed(lab: Lab) -> None:
    secret = new_secret()
    async with serving(HttpsEnd(StrictWebhook(secret), lab.authority.server_context())) as end:
        sink = await lab.sink("webhook", secret, url=url_of(end))
        await lab.write(1)
        end.troubles.append(answers(307, Location="https://10.0.0.1/"))
        export = lab.export(sink)
        assert await lab.drain(export) is None
        assert (await lab.get(sink)).trouble_code == "http-307"
        assert len(end.requests) == 1
        await export.close()


async def test_syslog_arrives_whole_and_in_order(lab: Lab, collector: SyslogEnd) -> None:
    sink = await lab.sink("syslog", host=NAME, port=collector.port)
    await lab.write(1_500)
    export = lab.export(sink)
    await lab.drain(export)
    assert collector.indexes == list(range(1_501))
    await export.close()


async def test_syslog_that_is_cut_is_sent_again(lab: Lab, collector: SyslogEnd) -> None:
    sink = await lab.sink("syslog", host=NAME, port=collector.port)
    await lab.write(400)
    export = lab.export(sink)
    collector.lets_through.append(100_000)
    await lab.drain(export)
    seen = len(collector.taken)
    assert 0 < seen < 401
    assert (await lab.get(sink)).next_index == 0
    await collector.stop()
    lab.clock.advance(minutes=10)
    await lab.drain(export)
    await collector.start()
    lab.clock.advance(minutes=10)
    await lab.drain(export)
    assert collector.indexes[seen:] == list(range(401))
    await export.close()


async def test_syslog_counts_only_what_the_receiver_has_closed_in_order(lab: Lab) -> None:
    end = MuteEnd(lab.authority.server_context())
    sink = await lab.sink("syslog", host=NAME, port=end.port)
    await lab.write(10)
    serving_once = asyncio.create_task(asyncio.to_thread(end.serve_once))
    export = lab.export(sink)
    await lab.drain(export)
    await serving_once
    assert end.received > 10_000
    failing = await lab.get(sink)
    assert (failing.next_index, failing.failures) == (0, 1)
    await export.close()


async def test_lines_go_to_a_file_that_may_be_rotated_away(lab: Lab) -> None:
    sink = await lab.sink("file", file_name="ledger.jsonl")
    path = lab.folder / "sinks" / "ledger.jsonl"
    await lab.write(10)
    export = lab.export(sink)
    await lab.drain(export)
    assert path.stat().st_mode & 0o777 == 0o600
    path.rename(path.with_suffix(".1"))
    await lab.write(10)
    await lab.drain(export)
    lines = [
        json.loads(line)
        for file in (path.with_suffix(".1"), path)
        for line in file.read_text().splitlines()
    ]
    assert [index_of(line) for line in lines] == list(range(21))
    with path.open("ab") as file:
        file.write(b'{"torn')
    await lab.write(2)
    await lab.drain(export)
    assert [index_of(json.loads(line)) for line in path.read_text().splitlines()[11:]] == [21, 22]
    path.unlink()
    os.mkfifo(path)
    await lab.write(2)
    await lab.drain(export)
    assert (await lab.get(sink)).trouble_code == "write-failed"
    await export.close()


async def test_an_entry_of_two_megabytes_is_shortened_and_marked(lab: Lab) -> None:
    """The ledger has none of these; whatever brought one about, it does not stop the stream."""
    document = {
        "metadata": {"version": "1.8.0"},
        "message": "m",
        "raw_data": "r" * 1_000_000,
        "unmapped": {
            "integrity": {"leaf_index": 7},
            "details": {"d": "d" * 1_000_000},
        },
    }
    item = Item(
        epoch=1,
        leaf_index=7,
        time=lab.clock(),
        type="t",
        severity_id=1,
        message="m",
        document=json.dumps(document).encode(),
    )
    assert len(item.document) > 2_000_000
    found = json.loads(shortened(item, 998_000))
    assert found["metadata"]["is_truncated"] is True
    assert found["unmapped"]["left_out"] == ["raw_data", "details"]
    strict = StrictDatadog(lab.clock)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink("datadog", API_KEY, url=url_of(end))
        client = lab.client(sink, [API_KEY])
        answer = await client.send(Batch([item], "note"), now=lab.clock())
        assert answer.is_accepted
        assert strict.indexes == [7]
        await client.close()
