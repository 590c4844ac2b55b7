"""Repetitions: interleaved in rotated order, medians with intervals, ties said as ties."""

from pathlib import Path

import pytest

from harness.noise import Interval, median_interval
from harness.record import Cell, Status
from harness.repeats import combined
from harness.report import render_markdown
from harness.stats import best_on, speedups
from tests.harness import records
from tests.harness.folders import harness
from tests.harness.test_bench import bench, cells_of


def cell(latency_ms: float, **changes) -> Cell:
    values = {"reference_latency_ms": 10.0, "speedup": 10.0 / latency_ms, "matched_ratio": 0.9}
    return Cell(
        solution="s",
        workload="w",
        status=Status.PASSED,
        latency_ms=latency_ms,
        **(values | changes),
    )


KEY = ("s", "w")


def test_medians_and_worst_errors():
    rounds = [
        {KEY: cell(2.0, max_abs_error=1.0)},
        {KEY: cell(4.0, max_abs_error=3.0, matched_ratio=0.8, reference_latency_ms=12.0)},
        {KEY: cell(1.0, max_abs_error=2.0, reference_latency_ms=11.0)},
    ]
    found = combined(rounds)[KEY]
    assert (found.latency_ms, found.reference_latency_ms, found.speedup) == (2.0, 11.0, 5.5)
    assert found.repeat_latencies_ms == [2.0, 4.0, 1.0]
    assert (found.max_abs_error, found.matched_ratio) == (3.0, 0.8)


def test_a_single_measurement_stays_as_it_is():
    assert combined([{KEY: cell(2.0)}]) == {KEY: cell(2.0)}
    assert combined([{KEY: cell(2.0)}, {}]) == {KEY: cell(2.0)}


def test_failing_once_is_failing():
    wrong = Cell(solution="s", workload="w", status=Status.RUNTIME_ERROR, reason="boom")
    found = combined([{KEY: cell(2.0)}, {KEY: wrong}, {KEY: cell(2.0)}])[KEY]
    assert found.status is Status.RUNTIME_ERROR
    assert found.reason == "passed before, but not in repetition 2: boom"
    assert found.latency_ms is None and found.speedup is None


def test_a_repetition_that_was_lost_does_not_count():
    lost = Cell(solution="s", workload="w", status=Status.MISSING, reason="the run was interrupted")
    found = combined([{KEY: cell(2.0)}, {KEY: lost}, {KEY: cell(3.0)}])[KEY]
    assert found.status is Status.PASSED and found.repeat_latencies_ms == [2.0, 3.0]


def test_interval_of_the_median():
    assert median_interval([1.0, 2.0]) is None
    assert median_interval([3.0] * 5) == Interval(3.0, 3.0)
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    found = median_interval(values)
    assert found is not None and found == median_interval(list(values)), "seeded"
    # Exactly, the median of five draws out of five is 1 or 5 with probability 0.058 each: beyond 2.5%.
    assert found == Interval(1.0, 5.0)
    # Of 25 values the binomial interval is from the 8th to the 18th; the bootstrap must be close.
    wide = median_interval([float(i) for i in range(1, 26)])
    assert wide is not None and 7 <= wide.low <= 9 and 17 <= wide.high <= 19


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1.0, 2.0), (2.0, 3.0), True),
        ((1.0, 2.0), (2.1, 3.0), False),
        ((1.0, 9.0), (2.0, 3.0), True),
    ],
)
def test_overlap(one, other, expected):
    assert Interval(*one).overlaps(Interval(*other)) is expected
    assert Interval(*other).overlaps(Interval(*one)) is expected


def test_ties_within_noise_are_said():
    record = records.repeated()
    near = best_on(record, records.W1.id)
    far = best_on(record, records.W57.id)
    assert near and near.winners == ("a_moe", "b_moe") and near.tie
    assert far and far.winners == ("b_moe",)
    assert speedups(record, "a_moe")[records.W1.id] != speedups(record, "b_moe")[records.W1.id]
    markdown = render_markdown(record)
    assert "| tie: a and b |" in markdown
    assert "| 500.0 (490.0 to 520.0) | 510.0 (500.0 to 530.0) | 800.0 |" in markdown
    assert "5 repetitions in rotated order" in markdown


def test_without_repetitions_nothing_is_said_of_them():
    assert "epetition" not in render_markdown(records.four_way())


def test_bench_interleaves_in_rotated_order(tmp_path: Path) -> None:
    done, record = bench(
        tmp_path,
        {
            "a": "series 4.0,2.0,5.0",
            "b": "series 1.0,1.0,1.0",
            "c": "series 3.0,failed,3.0",
        },
        *("--repeats", "3"),
        workloads="T=1",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    order = [line.split()[3] for line in done.stdout.splitlines() if "/9]" in line]
    assert order == ["a", "b", "c", "b", "c", "a", "a", "b"], "c has failed by then"
    assert record.repeats == 3
    a, b, c = (cells_of(record, folder)[0] for folder in "abc")
    assert a.repeat_latencies_ms == [2.5, 5.0, 2.0] and a.latency_ms == 2.5 and a.speedup == 4.0
    assert b.repeat_latencies_ms == [10.0] * 3
    assert c.status is Status.RUNTIME_ERROR and "repetition 2: RuntimeError" in (c.reason or "")
    assert "--repeats 3" in " ".join(record.command)
    traces = (tmp_path / "results" / "r" / "traces.jsonl").read_text().splitlines()
    assert len(traces) == 8


def test_throttling_during_the_run_is_warned_about(tmp_path: Path) -> None:
    """The stub's GPU always reports a power cap."""
    _, record = bench(tmp_path, {"a": "passed 2.0"}, "--repeats", "2", workloads="T=1")
    moments = ("before the run", "during the run", "after the run")
    for moment in moments:
        assert any(moment in w and "software power cap" in w for w in record.warnings), moment


def test_repeats_must_be_a_number_of_times(tmp_path: Path) -> None:
    done = harness("bench", "triton_v2", "--repeats", "0")
    assert done.returncode == 2 and "REPEATS" in done.stderr and "1 or more" in done.stderr
