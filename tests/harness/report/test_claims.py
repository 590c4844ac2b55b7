"""Checking the statements of a document, on small records and on the transcribed seed run."""

import pytest

from harness.paths import Paths
from harness.record import Claim, RunRecord, load_record
from harness.report.claims import Verdict, check_claim, check_claims
from harness.stats import best_on, rounded, solution_stats
from tests.harness import records

SEED_RUN = Paths().results / "2026-02-02-b200"

SOLUTIONS = (
    "sglang_fp8_blockwise_moe_v1",
    "sglang_fp8_blockwise_moe_v2",
    "triton_fused_moe_v1",
    "triton_fused_moe_v2",
)
SGLANG_V1, SGLANG_V2, TRITON_V1, TRITON_V2 = SOLUTIONS

# The published table: id, T, offset, speedups in the order of SOLUTIONS.
TABLE = """
e05c6c03     1  32 17.94 23.00 28.74 37.58
b8f4f012     7 192 17.78 22.13 17.45 36.03
8cba5890    14   0 15.89 21.66 17.18 34.13
2e69caee    15  32 13.49 26.08 18.57 34.59
a7c2bcfd    16 224 20.17 30.34 30.16 35.75
6230e838    32  32 14.08 21.78 23.95 31.85
f7d6ac7c    52 160 20.45 27.44 18.01 23.86
fc378037    53  32 21.69 27.80 27.76 31.79
76010cb4    54 128 21.10 27.64 27.75 31.63
81955b1e    55 128 21.15 28.04 27.93 31.89
4822167c    56  64 21.43 27.46 27.06 31.50
74d7ff04    57  96 20.54 28.05 28.06 32.35
e626d3e6    58  64 22.35 28.03 28.16 31.85
eedc63b2    59 160 21.32 29.02 28.23 33.70
5eadab1e    62  96 19.28 18.38 22.52 35.95
8f1ff9f1    80  96 22.01 26.40 26.40 30.27
1a4c6ba1   901  96 18.06 21.42 23.52 25.75
58a34f27 11948 128  3.61  4.07  4.64  4.67
5e8dc11c 14107  32  3.84  4.39  4.99  4.99
"""
SUMMARY = {
    "average": ("17.69", "23.32", "22.69", "29.48"),
    "small": ("19.34", "25.57", "24.79", "32.38"),
    "large": ("3.73", "4.23", "4.82", "4.83"),
    "min": ("3.61", "4.07", "4.64", "4.67"),
    "max": ("22.35", "30.34", "30.16", "37.58"),
}


@pytest.fixture(scope="module")
def seed() -> RunRecord:
    return load_record(SEED_RUN)


def test_seed_run_has_the_published_table(seed):
    typed = [line.split() for line in TABLE.strip().splitlines()]
    assert len(typed) == 19
    held = [
        [
            workload.id[:8],
            str(workload.seq_len),
            str(workload.local_expert_offset),
            *(f"{seed.cell(name, workload.id).speedup:.2f}" for name in SOLUTIONS),
        ]
        for workload in seed.workloads
    ]
    assert held == typed
    assert len(seed.cells) == 76
    assert seed.all_passed()


def test_seed_run_holds_nothing_that_the_document_does_not_say(seed):
    assert seed.backend == "document"
    assert [s.name for s in seed.solutions] == list(SOLUTIONS)
    assert [s.label for s in seed.solutions] == ["sglang_v1", "sglang_v2", "triton_v1", "triton_v2"]
    assert seed.timer is None
    assert seed.ceilings is None
    assert seed.dataset.kind == "document"
    assert seed.dataset.hash is None
    assert (seed.environment.gpu.name, seed.environment.gpu.compute_capability) == (
        "NVIDIA B200",
        "10.0",
    )
    for cell in seed.cells:
        assert cell.origin == "document"
        assert cell.latency_ms is None
        assert cell.reference_latency_ms is None
        assert cell.matched_ratio is None
    p = seed.profile
    assert (p.rtol, p.atol, p.required_matched_ratio) == (0.2, 0.1, 0.85)
    assert (p.warmup_runs, p.iterations, p.num_trials, p.timeout) == (5, 20, 3, 600)


def test_seed_summary_follows_from_the_table(seed):
    for position, name in enumerate(SOLUTIONS):
        found = solution_stats(seed, name)
        computed = {
            "average": found.average.value,
            "small": found.small.value,
            "large": found.large.value,
            "min": found.min,
            "max": found.max,
        }
        for metric, stated in SUMMARY.items():
            assert str(rounded(computed[metric])) == stated[position], (name, metric)


def test_seed_best_column_is_corrected(seed):
    winners = {w.id[:8]: best_on(seed, w.id).winners for w in seed.workloads}
    assert winners.pop("f7d6ac7c") == (SGLANG_V2,)
    assert winners.pop("5e8dc11c") == (TRITON_V1, TRITON_V2)
    assert set(winners.values()) == {(TRITON_V2,)}


def test_seed_contradictions(seed):
    checked = check_claims(seed)
    contradicted = {
        (c.claim.metric, c.claim.text): (c.stated, c.computed)
        for c in checked
        if c.verdict is Verdict.CONTRADICTED
    }
    found = sorted((metric, stated) for (metric, _), (stated, _) in contradicted.items())
    assert found == [
        ("average_ratio", "1.26x"),
        ("average_ratio", "1.30x"),
        ("best", "triton_v2"),
        ("best_or_tied", "19 of 19"),
        ("gain_percent", "15% to 30%"),
        ("ratio_range", "1.01-1.96x"),
        ("ratio_range", "1.01-2.53x"),
        ("ratio_range", "1.09-2.06x"),
    ]
    words = "\n".join(computed for _, computed in contradicted.values())
    for expected in (
        "sglang_v2 (27.44x)",
        "18 of 19: 17 alone, 1 tied; loses f7d6ac7c (T=52) to sglang_v2",
        "1.17-2.56x, lowest at f7d6ac7c (T=52), highest at 2e69caee (T=15)",
        "0.87-1.96x, lowest at f7d6ac7c (T=52), highest at 5eadab1e (T=62)",
        "1.19-2.06x, lowest at a7c2bcfd (T=16), highest at b8f4f012 (T=7)",
        "1.28x as the mean of per-workload ratios; 1.26x is the ratio of the averages",
        "1.31x as the mean of per-workload ratios; 1.30x is the ratio of the averages",
        "13% to 60%; 5 of 10 workloads within the stated range",
    ):
        assert expected in words


def test_seed_claims_are_complete(seed):
    checked = check_claims(seed)
    metrics = [c.claim.metric for c in checked]
    for metric in ("average", "small_average", "large_average", "min", "max"):
        assert metrics.count(metric) == 4
    assert metrics.count("best") == 19
    assert metrics.count("average_ratio") == 3
    assert metrics.count("ratio_range") == 7
    unclear = [c for c in checked if c.verdict is Verdict.NOT_CHECKABLE]
    assert all(c.claim.metric == "not_checkable" for c in unclear), "a claim names a wrong key"
    assert any("32x" in c.claim.text for c in unclear)
    confirmed = [c for c in checked if c.verdict is Verdict.CONFIRMED]
    assert len(confirmed) == len(checked) - len(unclear) - 8


SMALL = records.speeds(a={1: 30.0, 64: 12.0, 20_000: 5.0}, b={1: 20.0, 64: 10.0, 20_000: 5.0})
PAIR = {"solution": "a_moe", "other": "b_moe"}


@pytest.mark.parametrize(
    ("metric", "subject", "right", "wrong"),
    [
        ("average", {"solution": "a_moe"}, 15.67, 15.66),
        ("small_average", {"solution": "a_moe"}, 21.0, 20.99),
        ("large_average", {"solution": "b_moe"}, 5.0, 5.01),
        ("min", {"solution": "a_moe"}, 5.0, 12.0),
        ("max", {"solution": "a_moe"}, 30.0, 29.99),
        ("best", {"workload": "w1"}, ["a_moe"], ["b_moe"]),
        ("best", {"workload": "w20000"}, ["b_moe", "a_moe"], ["a_moe"]),
        ("best_or_tied", {"solution": "a_moe"}, 3, 2),
        ("best_or_tied", {"solution": "b_moe"}, 1, 0),
        ("tied", {"solution": "a_moe"}, 1, 0),
        ("average_ratio", PAIR, 1.23, 1.34),
        ("ratio_range", PAIR, [1.0, 1.5], [1.0, 1.49]),
        ("ratio_range", PAIR | {"min_tokens": 2, "max_tokens": 64}, [1.2, 1.2], [1.0, 1.2]),
        ("gain_percent", PAIR, [0, 50], [1, 50]),
        ("largest_ratio_at", PAIR, "w1", "w64"),
        ("order", {}, ["a_moe", "b_moe"], ["b_moe", "a_moe"]),
        ("close_averages", PAIR, False, True),
        ("share_of_stated", {"solution": "a_moe", "average": 20.0}, 0.78, 0.79),
    ],
)
def test_each_metric_tells_right_from_wrong(metric, subject, right, wrong):
    for stated, verdict in ((right, Verdict.CONFIRMED), (wrong, Verdict.CONTRADICTED)):
        claim = Claim(text="something", metric=metric, subject=subject, stated=stated)
        assert check_claim(SMALL, claim).verdict is verdict, stated


def test_stated_and_computed_values_are_both_said():
    claim = Claim(text="x", metric="average", subject={"solution": "a_moe"}, stated=15.6)
    checked = check_claim(SMALL, claim)
    assert (checked.stated, checked.computed) == ("15.60x", "15.67x")


@pytest.mark.parametrize(
    ("metric", "subject", "stated"),
    [
        ("no such metric", {}, 1),
        ("average", {}, 1.0),
        ("average", {"solution": "a_moe"}, "fast"),
        ("average", {"solution": "nobody"}, 1.0),
        ("best", {"workload": "nowhere"}, ["a_moe"]),
        ("average_ratio", {"solution": "a_moe", "other": "nobody"}, 1.0),
        ("ratio_range", PAIR | {"min_tokens": 70, "max_tokens": 80}, [1, 1]),
        ("largest_ratio_at", {"solution": "nobody", "other": "a_moe"}, "w1"),
        ("order", {}, ["a_moe", "nobody"]),
        ("not_checkable", {"reason": "no latencies are shown"}, None),
    ],
)
def test_claims_about_what_is_not_there_are_not_checkable(metric, subject, stated):
    claim = Claim(text="something", metric=metric, subject=subject, stated=stated)
    checked = check_claim(SMALL, claim)
    assert checked.verdict is Verdict.NOT_CHECKABLE
    assert checked.computed, "the reason is said"


def test_a_measured_record_has_no_claims():
    assert check_claims(records.four_way()) == ()
