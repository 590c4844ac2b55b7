"""Statistics of records: what counts, ties, coverage, ratios."""

from decimal import Decimal

import pytest

from harness import stats
from harness.record import Status
from tests.harness import records


def test_rounding_is_half_up_in_decimal():
    assert stats.rounded((3.61 + 3.84) / 2) == Decimal("3.73")
    assert stats.rounded(4.815) == Decimal("4.82")
    assert stats.rounded(1.005) == Decimal("1.01")
    assert stats.rounded(2.675, 1) == Decimal("2.7")
    assert stats.rounded(1.0049999) == Decimal("1.00")


def test_means_by_batch_size():
    found = stats.solution_stats(
        records.speeds(a={1: 10.0, 901: 20.0, 902: 40.0, 10_000: 60.0, 10_001: 5.0}), "a_moe"
    )
    assert found.average == stats.Mean(27.0, 5, 5)
    assert found.small == stats.Mean(15.0, 2, 2)
    assert found.large == stats.Mean(5.0, 1, 1)
    assert (found.min, found.max) == (5.0, 60.0)


def test_cells_that_did_not_pass_enter_no_mean():
    record = records.failures()
    wrong = stats.solution_stats(record, "wrong_moe")
    assert wrong.average == stats.Mean(pytest.approx(120.0), 1, 2)
    assert wrong.max == pytest.approx(120.0), "the failed cell carries a speedup of 16000"
    broken = stats.solution_stats(record, "broken_moe")
    assert broken.average == stats.Mean(None, 0, 2)
    assert broken.min is None


@pytest.mark.parametrize("speedup", [None, float("nan"), float("inf"), 0.0, -1.0])
def test_a_passed_cell_without_a_usable_speedup_enters_no_mean(speedup):
    record = records.speeds(a={1: 10.0, 2: 20.0})
    record.cells[1].speedup = speedup
    assert stats.solution_stats(record, "a_moe").average == stats.Mean(10.0, 1, 2)


def test_ties_are_decided_as_displayed():
    record = records.speeds(a={1: 4.994, 2: 5.0}, b={1: 4.986, 2: 5.006}, c={1: 4.98, 2: 1.0})
    tie = stats.best_on(record, "w1")
    assert tie.winners == ("a_moe", "b_moe")
    assert tie.tie
    assert stats.best_on(record, "w2").winners == ("b_moe",), "5.00 and 5.01 are shown apart"


def test_no_best_where_nothing_passed():
    record = records.nothing_passed()
    assert stats.best_on(record, record.workloads[0].id) is None
    assert stats.ranking(record).ranked == ()


def test_mean_of_ratios_is_not_ratio_of_averages():
    found = stats.compare(
        records.speeds(a={1: 30.0, 2: 10.0}, b={1: 10.0, 2: 20.0}), "a_moe", "b_moe"
    )
    assert found.mean_of_ratios == pytest.approx((3.0 + 0.5) / 2)
    assert found.ratio_of_averages == pytest.approx(20.0 / 15.0)
    assert found.lowest == stats.Ratio(0.5, "w2")
    assert found.highest == stats.Ratio(3.0, "w1")


def test_comparison_uses_common_workloads_only():
    record = records.speeds(a={1: 30.0, 2: 10.0, 3: 8.0}, b={1: 10.0, 3: 4.0})
    found = stats.compare(record, "a_moe", "b_moe")
    assert [ratio.workload for ratio in found.ratios] == ["w1", "w3"]
    assert found.ratio_of_averages == pytest.approx(38.0 / 14.0)
    assert found.total == 3
    assert stats.compare(records.speeds(a={1: 1.0}, b={2: 1.0}), "a_moe", "b_moe") is None


def test_buckets_have_fixed_edges_and_actual_labels():
    sizes = [1, 32, 33, 128, 129, 1024, 1025, 10_000, 10_001]
    found = stats.buckets(records.speeds(a=dict.fromkeys(sizes, 1.0)))
    assert [b.label for b in found] == [
        "T=1-32",
        "T=33-128",
        "T=129-1024",
        "T=1025-10000",
        "T=10001",
    ]
    sparse = stats.buckets(records.speeds(a={52: 1.0, 80: 1.0, 14107: 1.0}))
    assert [b.label for b in sparse] == ["T=52-80", "T=14107"]


def test_ranking_counts_wins_and_ties():
    record = records.speeds(a={1: 9.0, 2: 3.0, 3: 1.0}, b={1: 8.0, 2: 3.0, 3: 7.0})
    ranks = stats.ranking(record).entries
    assert [(r.solution, r.position, r.wins, r.ties) for r in ranks] == [
        ("b_moe", 1, 1, 1),
        ("a_moe", 2, 1, 1),
    ]


def test_equal_averages_share_a_position():
    ranks = stats.ranking(records.speeds(a={1: 2.0}, b={1: 3.0}, c={1: 3.001})).entries
    assert [(r.solution, r.position) for r in ranks] == [
        ("c_moe", 1),
        ("b_moe", 1),
        ("a_moe", 3),
    ]


def test_passing_only_small_batches_does_not_lead_the_ranking():
    record = records.speeds(whole={1: 30.0, 14107: 4.0}, half={1: 31.0})
    found = stats.ranking(record)
    assert [(r.solution, r.position) for r in found.entries] == [
        ("whole_moe", 1),
        ("half_moe", None),
    ]
    assert found.entries[1].average == stats.Mean(31.0, 1, 2)
    assert stats.leaders(record, ["w1", "w14107"]) == ("whole_moe",)
    assert stats.leaders(record, ["w1"]) == ("half_moe",)


def test_ranking_on_common_workloads_when_none_is_complete():
    record = records.speeds(a={1: 9.0, 2: 30.0}, b={1: 8.0, 3: 40.0})
    found = stats.ranking(record)
    assert found.common_only
    assert found.workloads == ("w1",)
    assert [(r.solution, r.average.value) for r in found.ranked] == [("a_moe", 9.0), ("b_moe", 8.0)]
    assert stats.leaders(record, ["w1", "w2", "w3"]) == ()
    apart = stats.ranking(records.speeds(a={1: 9.0}, b={2: 8.0}))
    assert apart.ranked == ()


def test_an_interruption_puts_nobody_out_of_the_ranking():
    record = records.speeds(a={1: 9.0, 2: 30.0}, b={1: 10.0}, c={})
    assert [r.solution for r in stats.ranking(record).ranked] == ["a_moe"]
    assert stats.leaders(record, ["w1", "w2"]) == ("a_moe",)
    record.partial = True
    found = stats.ranking(record)
    assert found.interrupted
    assert found.workloads == ("w1",)
    assert [(r.solution, r.average.value) for r in found.ranked] == [
        ("b_moe", 10.0),
        ("a_moe", 9.0),
    ]
    assert stats.leaders(record, ["w1", "w2"]) == ()


def test_workloads_are_taken_by_tokens_whatever_the_order():
    record = records.speeds(a={1: 3.0, 5: 2.0, 9: 1.0})
    record.workloads.reverse()
    assert stats.workload_ids(record) == ("w1", "w5", "w9")
    assert list(stats.speedups(record, "a_moe")) == ["w1", "w5", "w9"]


def test_missing_cells_of_helper_are_missing():
    record = records.speeds(a={1: 3.0}, b={2: 3.0})
    assert record.cell("a_moe", "w2").status is Status.MISSING
