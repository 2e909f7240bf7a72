import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.statistics import Latencies, Statistics


@given(
    st.lists(st.floats(0.001, 500), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 0.99])
)
def test_a_quantile_is_right_to_within_one_bucket(values: list[float], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    found = latencies.quantile_s(share)
    assert found is not None
    assert exact / 1.06 <= found <= exact * 1.06


def test_without_a_measurement_there_is_no_latency() -> None:
    assert Latencies().summary_ms() == {"p50": None, "p95": None, "p99": None, "max": None}


@pytest.mark.parametrize(("held", "lost"), [(3, 0), (1, 2)])
def test_lost_is_what_is_neither_acked_nor_rejected_nor_held(held: int, lost: int) -> None:
    statistics = Statistics(published=10, acked=6, rejected=1)
    summary = statistics.summary(duration_s=1, held=held, memory_kib=None)
    assert (summary["lost"], summary["not_drained"]) == (lost, held)
