"""Exporting to a strict HTTP Event Collector: what it accepts arrives once, whatever goes wrong."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tensorguard.services.sinks import dead_letters, sink_changes
from tensorguard.services.sinks.sinks import Sink
from tensorguard.siem.hec import HecClient, HecTarget
from tensorguard.siem.http_client import HttpClient, tls_context
from tensorguard.siem.item import Batch
from tensorguard.siem.ocsf import labelled_item
from tests.integration.sinks.far_end import (
    NAME,
    HttpsEnd,
    answers,
    cut_after_accept,
    cut_before,
    hang,
    serving,
)
from tests.integration.sinks.lab import Lab
from tests.integration.sinks.strict_ends import TOKEN, StrictHec, index_of


@pytest.fixture
async def hec(lab: Lab) -> AsyncIterator[tuple[StrictHec, HttpsEnd]]:
    strict = StrictHec()
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        yield strict, end


async def splunk(lab: Lab, end: HttpsEnd, **config: object) -> Sink:
    return await lab.sink("splunk", TOKEN, url=f"https://{NAME}:{end.port}", **config)


async def test_every_entry_arrives_once_and_in_order(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end, index="main")
    await lab.write(2_500)
    export = lab.export(sink)
    await lab.drain(export)
    # The sink's own creation is the first entry.
    assert strict.indexes == list(range(2_501))
    done = await lab.get(sink)
    assert (done.next_index, done.sent, done.answer_status) == (2_501, 2_501, 200)
    assert end.connections == 1
    assert TOKEN not in str(done)
    await export.close()


async def test_nothing_is_sent_that_no_checkpoint_covers(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    export = lab.export(sink)
    await lab.drain(export)
    assert strict.taken == []
    await lab.sign()
    await lab.drain(export)
    assert [one["metadata"]["event_code"] for one in strict.taken] == ["sink.created"]
    assert strict.taken[0]["unmapped"]["integrity"]["checkpoint"].startswith(
        "example.org/ledger/1\n1\n"
    )
    await export.close()


async def test_an_entry_that_is_refused_is_found_kept_and_sent_again_on_demand(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(999)
    strict.names_bad = False
    strict.refuses = lambda document: index_of(document) == 700
    export = lab.export(sink)
    await lab.drain(export)
    assert strict.indexes == [index for index in range(1_000) if index != 700]
    async with lab.sessions() as session:
        [letter] = await dead_letters.list_dead_letters(session, sink.id, after=None, limit=10)
    assert (letter.leaf_index, letter.code, letter.status) == (700, "hec-7", 400)
    assert "Incorrect index" in letter.answer
    assert await lab.told("sink.dead-lettered") == [{"count": 1}]

    await lab.change(dead_letters.replay_dead_letter, sink.id, letter.id)
    await lab.drain(export)
    assert 700 not in strict.indexes
    strict.refuses = lambda document: False
    await lab.change(dead_letters.replay_dead_letters, sink.id)
    await lab.drain(export)
    assert strict.indexes[-1] == 700
    async with lab.sessions() as session:
        assert not await dead_letters.list_dead_letters(session, sink.id, after=None, limit=10)
    await export.close()


async def test_the_far_end_may_name_the_bad_entry(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(400)
    strict.refuses = lambda document: index_of(document) in (0, 123, 400)
    export = lab.export(sink)
    await lab.drain(export)
    assert strict.indexes == [index for index in range(401) if index not in (0, 123, 400)]
    assert len(end.requests) < 12
    await export.close()


async def test_a_destination_that_refuses_everything_is_stopped_before_all_is_buried(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    _, end = hec
    sink = await splunk(lab, end, index="elsewhere")
    await lab.write(500)
    export = lab.export(sink)
    assert await lab.drain(export) is None
    stopped = await lab.get(sink)
    assert (stopped.state, stopped.trouble_code) == ("stopped", "everything-refused")
    assert stopped.next_index == 20
    assert [one["code"] for one in await lab.told("sink.stopped")] == ["everything-refused"]
    await export.close()


@pytest.mark.parametrize("code", [1, 2, 3, 4])
async def test_codes_of_the_token_stop_the_sink_until_somebody_resumes_it(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd], code: int
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(10)
    end.troubles.append(answers(403, b'{"text":"no","code":%d}' % code))
    export = lab.export(sink)
    assert await lab.drain(export) is None
    stopped = await lab.get(sink)
    assert (stopped.state, stopped.trouble_code) == ("stopped", f"hec-{code}")
    await lab.change(sink_changes.resume_sink, sink.id)
    await lab.drain(export)
    assert strict.indexes == list(range(11))
    await export.close()


async def test_a_busy_destination_is_left_alone_for_as_long_as_it_asks(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(10)
    end.troubles.append(answers(503, b'{"text":"Server is busy","code":9}', Retry_After="120"))
    export = lab.export(sink)
    await lab.drain(export)
    failing = await lab.get(sink)
    assert (failing.trouble_code, failing.failures) == ("hec-9", 1)
    assert failing.retry_at == lab.clock() + timedelta(seconds=120)
    lab.clock.advance(seconds=119)
    await lab.drain(export)
    assert strict.taken == []
    lab.clock.advance(seconds=1)
    await lab.drain(export)
    assert strict.indexes == list(range(11))
    assert (await lab.get(sink)).trouble_code is None
    await export.close()


async def test_what_was_accepted_but_not_answered_is_sent_again_and_nothing_is_lost(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(1_500)
    end.troubles += [cut_after_accept, cut_before]
    export = lab.export(sink)
    for _ in range(3):
        await lab.drain(export)
        lab.clock.advance(minutes=10)
    first = strict.indexes.index(0, 1)
    assert strict.indexes[:first] == list(range(first))
    assert strict.indexes[first:] == list(range(1_501))
    await export.close()


async def test_a_destination_that_is_killed_in_mid_stream_gets_the_rest_when_it_is_back(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(600)
    export = lab.export(sink)
    await export.step()
    await end.stop()
    await lab.write(600)
    for hour in range(26):  # a day of it: the ledger is told once
        await lab.drain(export)
        lab.clock.advance(hours=1)
        assert (await lab.get(sink)).trouble_code == "connection-failed", hour
    assert len(await lab.told("sink.failing")) == 1
    await end.start()
    await lab.drain(export)
    await lab.sign()
    await lab.drain(export)
    assert strict.indexes == list(range(await lab.size()))
    [recovered] = await lab.told("sink.recovered")
    assert recovered["failures"] == 26
    await export.close()


async def test_a_destination_that_never_answers_is_given_up_in_time(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end, timeout_s=1)
    await lab.write(10)
    end.troubles.append(hang)
    export = lab.export(sink)
    await lab.drain(export)
    assert (await lab.get(sink)).trouble_code == "timeout"
    lab.clock.advance(minutes=10)
    await lab.drain(export)
    assert strict.indexes == [*range(11), *range(11)]
    await export.close()


async def test_acknowledgement_is_waited_for(lab: Lab) -> None:
    strict = StrictHec(acknowledges=1)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await splunk(lab, end)
        await lab.write(10)
        export = lab.export(sink)
        assert await lab.drain(export) is None  # the token asks for it
        assert (await lab.get(sink)).trouble_code == "hec-10"
        config = {**(await lab.get(sink)).config, "acknowledge": True}
        await lab.change(
            sink_changes.change_sink, sink.id, config=sink_changes.parse_config(config)
        )
        await lab.change(sink_changes.resume_sink, sink.id)
        await lab.drain(export)
        assert strict.indexes == list(range(11))
        assert [one.path for one in end.requests[1:]] == [
            "/services/collector/event",
            f"/services/collector/ack?channel={sink.id}",
            f"/services/collector/ack?channel={sink.id}",
        ]
        await export.close()


async def test_several_batches_are_acknowledged_together_in_order_and_none_comes_twice(
    lab: Lab,
) -> None:
    strict = StrictHec(acknowledges=2)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await splunk(lab, end, acknowledge=True)
        await lab.write(2_500)
        # In the midst of what is under way: what stands before it is acknowledged, and stays.
        strict.refuses = lambda document: index_of(document) == 1_200
        export = lab.export(sink)
        await lab.drain(export)
        assert strict.indexes == [one for one in range(2_501) if one != 1_200]
        sent = [one for one in end.requests if one.path == "/services/collector/event"]
        assert strict.polls < len(sent) * 2  # three polls each, if they were waited for one by one
        assert (await lab.get(sink)).next_index == 2_501
        await export.close()


async def test_what_is_not_acknowledged_in_time_is_sent_again_and_what_was_before_it_is_not(
    lab: Lab,
) -> None:
    strict = StrictHec(acknowledges=0)
    strict.never_acknowledges = {1}
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await splunk(lab, end, acknowledge=True)
        waited = 0.0

        async def pause(seconds: float) -> None:
            nonlocal waited
            waited += seconds

        target = HecTarget(
            url=sink.config["url"], token=TOKEN, channel=str(sink.id), host="h", acknowledge=True
        )
        http = HttpClient(lab.outside.guard, tls_context(lab.authority.pem), timeout_s=30)
        client = HecClient(target, http, pause=pause, timer=lambda: waited)
        items = [labelled_item(sink=str(one), trust_domain="t", now=lab.clock()) for one in "abc"]
        batches = [Batch([one], "") for one in items]
        answers = await client.send_several(batches, now=lab.clock())
        assert [one.code for one in answers] == ["accepted", "hec-not-acknowledged"]
        assert 298 <= waited <= 300
        await client.close()


async def test_a_success_that_no_collector_has_spoken_is_none(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(10)
    end.troubles.append(answers(200, b"<html>Welcome to the guest network</html>"))
    export = lab.export(sink)
    await lab.drain(export)
    assert (await lab.get(sink)).trouble_code == "hec-unexpected"
    lab.clock.advance(minutes=10)
    await lab.drain(export)
    assert strict.indexes == list(range(11))
    await export.close()


async def test_a_replay_waits_as_well_while_the_destination_is_down(
    lab: Lab, hec: tuple[StrictHec, HttpsEnd]
) -> None:
    strict, end = hec
    sink = await splunk(lab, end)
    await lab.write(5)
    strict.refuses = lambda document: index_of(document) == 3
    export = lab.export(sink)
    await lab.drain(export)
    strict.refuses = lambda document: False
    await lab.change(dead_letters.replay_dead_letters, sink.id)
    await end.stop()
    for failures in (1, 2):
        await lab.drain(export)
        await lab.drain(export)  # it rests
        assert (await lab.get(sink)).failures == failures
        lab.clock.advance(minutes=10)
    await end.start()
    await lab.drain(export)
    await lab.sign()
    await lab.drain(export)
    assert strict.indexes.count(3) == 1
    await export.close()


async def test_too_large_a_batch_is_split(lab: Lab) -> None:
    strict = StrictHec(most_bytes=100_000)
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await splunk(lab, end)
        await lab.write(300)
        export = lab.export(sink)
        await lab.drain(export)
        assert strict.indexes == list(range(301))
        await export.close()
