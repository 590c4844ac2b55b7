"""What follows from a verdict: which cells keep a speed, and what the report says of the others."""

import pytest

from harness.record import CheckResult, Status, VerificationInfo
from harness.report.markdown import render_markdown
from harness.verify.stage import FLOOR_SHARE, refusals, without_impossible, without_unexamined
from tests.harness import records

# W1 needs three experts: 3 x 44.04 MB at 4400 GB/s.
FLOOR_MS = 3 * 3 * 7168 * 2048 / 4400e9 * 1e3


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
        solutions=[
            records.verdict("a"),
            records.verdict("b", "repeat", "offsets"),
            records.verdict("c", "build"),
        ],
    )
    found = refusals(info)
    assert list(found) == ["b_moe"]
    assert found["b_moe"].reason == "failed verification: repeat: why repeat (also: offsets)"


def test_the_report_shows_reasons_in_place_of_speeds() -> None:
    text = render_markdown(records.verified())
    assert "VERIFY_FAILED (many_calls)" in text and "VERIFY_FAILED (latency_floor)" in text
    assert "30.0" in text and "12000" not in text, (
        "12 ms / 0.4 ms is a speedup, 12 ms / 1 us is none"
    )
    assert "full form, 2 of 3 solutions passed; failed: bad" in text
    assert "why many_calls" in text and "seed 77" in text


def test_the_report_shows_what_of_the_tolerance_is_spent() -> None:
    text = render_markdown(records.verified())
    row = "| 11111111 | 1 | 0.9765 | 0.9876 | 0.00088 | 3.25 | 17.5 |"
    assert text.count(row) == 2, "of the two that passed"


def test_what_was_built_for_timing_only_gets_no_speed() -> None:
    """A solution that refuses to be built under examination would else be shown unexamined."""
    failed = CheckResult(name="build", outcome="failed", detail="ImportError: not here")
    unbuilt = records.verdict("a").model_copy(update={"checks": [failed]})
    info = VerificationInfo(form="short", solutions=[unbuilt, records.verdict("b")])
    cells = [
        records.passed("a", records.W1, 1.0),
        records.failed("a", records.W57, "COMPILE_ERROR"),
        records.passed("b", records.W1, 1.0),
    ]
    first, *others = without_unexamined(cells, info)
    assert first.status is Status.VERIFY_FAILED and "ImportError: not here" in (first.reason or "")
    assert first.speedup is first.latency_ms is None
    assert others == cells[1:]
