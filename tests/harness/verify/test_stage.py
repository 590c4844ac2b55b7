"""What follows from a verdict: which cells keep a speed, and what the report says of the others."""

import pytest

from harness.record import Accuracy, CheckResult, RunRecord, Status, Verification, VerificationInfo
from harness.report.markdown import render_markdown
from harness.verify.stage import FLOOR_SHARE, refusals, refused_cells, without_impossible
from tests.harness import records

# W1 needs three experts: 3 x 44.04 MB at 4400 GB/s.
FLOOR_MS = 3 * 3 * 7168 * 2048 / 4400e9 * 1e3


def verdict(label: str, *failed: str) -> Verification:
    checks = [CheckResult(name="repeat", outcome="passed", detail="equal bit by bit")]
    checks += [CheckResult(name=name, outcome="failed", detail=f"why {name}") for name in failed]
    accuracy = Accuracy(
        workload=records.W1.id,
        matched_ratio=0.97654,
        matched_seed=0.97654,
        matched_contest=0.98765,
        cosine=0.99912,
        max_abs_error=3.25,
        max_rel_error=17.5,
    )
    return Verification(
        solution=f"{label}_moe",
        source_hash="0" * 64,
        checks=checks,
        accuracy=[] if failed else [accuracy],
        seconds=1.0,
    )


@pytest.mark.parametrize("share", [0.2, FLOOR_SHARE * 0.97, FLOOR_SHARE * 1.03, 3.0])
def test_latencies_below_the_floor_are_not_shown(share: float) -> None:
    record = records.record(
        [records.solution("a"), records.solution("b")],
        [records.W1],
        [
            records.passed("a", records.W1, share * FLOOR_MS),
            records.failed("b", records.W1, "TIMEOUT"),
        ],
    )
    first, second = without_impossible(
        record.cells, record.workloads, record.definition, record.ceilings
    )
    assert second == record.cells[1]
    if share > FLOOR_SHARE:
        assert first == record.cells[0]
        return
    assert first.status is Status.VERIFY_FAILED and (first.reason or "").startswith("latency_floor")
    assert first.speedup is first.latency_ms is first.reference_latency_ms is None


def test_without_ceilings_nothing_is_impossible() -> None:
    cells = [records.passed("a", records.W1, 1e-6)]
    definition = records.record([records.solution("a")], [records.W1], cells).definition
    assert without_impossible(cells, [records.W1], definition, None) == cells


def test_what_failed_is_refused_and_what_cannot_be_built_is_not() -> None:
    info = VerificationInfo(
        form="short",
        seed=1,
        solutions=[verdict("a"), verdict("b", "repeat", "offsets"), verdict("c", "build")],
    )
    assert refusals(info) == {
        "b_moe": "failed verification: repeat: why repeat (also: offsets)",
    }


def verified() -> RunRecord:
    """`right` and `quick` were timed; `bad` failed before, and `quick` was faster than the GPU can be."""
    labels = ("right", "bad", "quick")
    info = VerificationInfo(
        form="full",
        seed=77,
        solutions=[verdict("right"), verdict("bad", "many_calls"), verdict("quick")],
    )
    cells = [
        records.passed("right", records.W1, 0.4),
        records.passed("quick", records.W1, 0.001),
        *refused_cells(refusals(info), [records.W1]),
    ]
    made = records.record([records.solution(x) for x in labels], [records.W1], cells)
    judged = without_impossible(made.cells, made.workloads, made.definition, made.ceilings)
    return made.model_copy(update={"cells": judged, "verification": info})


def test_the_report_shows_reasons_in_place_of_speeds() -> None:
    text = render_markdown(verified())
    assert "VERIFY_FAILED (many_calls)" in text and "VERIFY_FAILED (latency_floor)" in text
    assert "30.0" in text and "12000" not in text, (
        "12 ms / 0.4 ms is a speedup, 12 ms / 1 us is none"
    )
    assert "full form, 2 of 3 solutions passed; failed: bad" in text
    assert "why many_calls" in text and "seed 77" in text


def test_the_report_shows_what_of_the_tolerance_is_spent() -> None:
    text = render_markdown(verified())
    row = "| 11111111 | 1 | 0.9765 | 0.9876 | 0.00088 | 3.25 | 17.5 |"
    assert text.count(row) == 2, "of the two that passed"
