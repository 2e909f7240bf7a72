from datetime import timedelta
from itertools import pairwise

from agent.core import effects as fx
from tensorguard.protocol.topics import DownKind
from tests.unit.agent.builders import AGENT, NOW, Bench, Signers, config


def test_a_start_asks_for_a_connection_and_counts_the_boot(bench: Bench) -> None:
    assert bench.count(fx.Connect) == 1
    assert bench.state.boot_count == 1
    assert bench.persisted == 1


def test_a_connection_brings_a_heartbeat_at_once_and_then_the_events(bench: Bench) -> None:
    bench.connect()
    kinds = [topic.rsplit("/", 1)[1] for topic, _ in bench.published]
    assert kinds == ["event", "heartbeat"] or kinds == ["heartbeat", "event"]
    beat = bench.heartbeats()[0]
    assert (beat.boot_count, beat.seq) == (1, 0)
    assert [event.type for event in bench.events()] == ["started"]


def test_heartbeats_follow_at_the_interval_give_or_take_a_tenth(bench: Bench) -> None:
    bench.state.heartbeat_interval_s = 10
    bench.connect()
    bench.pass_time(1000)
    beats = bench.heartbeats()
    assert 1000 / 11 <= len(beats) - 1 <= 1000 / 9
    assert [beat.seq for beat in beats] == list(range(len(beats)))
    gaps = [b.sent_at - a.sent_at for a, b in pairwise(beats[1:])]
    assert min(gaps) >= timedelta(seconds=9) - timedelta(milliseconds=1)
    assert max(gaps) <= timedelta(seconds=11) + timedelta(milliseconds=1)


def test_nothing_is_published_without_a_connection(bench: Bench) -> None:
    bench.pass_time(120)
    assert bench.published == []


def test_refused_connections_are_repeated_with_growing_full_jitter(bench: Bench) -> None:
    for attempt in range(14):
        bench.todo.clear()
        bench.disconnect()
        wait_s = bench.core.deadline_s(bench.moment) - bench.moment.monotonic_s
        assert 0 < wait_s <= min(300.0, 2.0**attempt)
        bench.pass_time(wait_s + 0.01)
        assert bench.count(fx.Connect) == 1


def test_who_is_told_that_it_may_not_connect_waits_for_minutes_at_once(bench: Bench) -> None:
    waits_s = []
    for _ in range(40):
        bench.todo.clear()
        bench.obey(bench.core.disconnected(bench.moment, refused=True))
        waits_s.append(bench.core.deadline_s(bench.moment) - bench.moment.monotonic_s)
        bench.pass_time(waits_s[-1] + 0.01)
    assert max(waits_s) <= 300
    assert sum(waits_s) / len(waits_s) > 60
    assert min(waits_s) < 120, "it is jitter, not a fixed wait"


def test_a_short_connection_does_not_reset_the_back_off(bench: Bench) -> None:
    for _ in range(12):
        bench.connect()
        bench.disconnect()
    ceilings = []
    for _ in range(20):
        bench.connect()
        bench.disconnect()
        ceilings.append(bench.core.deadline_s(bench.moment) - bench.moment.monotonic_s)
    assert max(ceilings) > 60, "kicked again and again, it has to wait for long"


def test_a_long_connection_resets_the_back_off(bench: Bench) -> None:
    for _ in range(12):
        bench.disconnect()
    bench.connect()
    bench.pass_time(61)
    bench.disconnect()
    assert bench.core.deadline_s(bench.moment) - bench.moment.monotonic_s <= 1.0


def test_the_will_names_the_boot_and_stands_on_the_agents_own_topic(bench: Bench) -> None:
    will = bench.core.will
    bench.connect()
    assert will.topic == f"tg/v1/{AGENT.fleet}/{AGENT.agent_id}/up/will"
    assert str(bench.heartbeats()[0].boot_id).encode() in will.payload


def test_a_new_interval_is_taken_from_a_signed_config_and_an_older_one_is_not(
    bench: Bench, signers: Signers
) -> None:
    bench.connect()
    bench.to_fleet(DownKind.CONFIG, signers.sign(config(signers, 2, interval_s=5)))
    assert bench.state.heartbeat_interval_s == 5
    bench.to_fleet(DownKind.CONFIG, signers.sign(config(signers, 1, interval_s=99)))
    assert bench.state.heartbeat_interval_s == 5
    bench.heartbeats()
    bench.pass_time(50)
    beats = bench.heartbeats()
    assert 8 <= len(beats) <= 12
    assert beats[-1].has.config == 2


def test_a_system_clock_that_jumps_does_not_stop_the_heartbeats(bench: Bench) -> None:
    bench.connect()
    bench.heartbeats()
    bench.moment = bench.moment._replace(system=NOW - timedelta(days=20_000))
    bench.pass_time(100)
    assert len(bench.heartbeats()) >= 2
