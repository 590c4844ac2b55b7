"""What must be alike for records to be compared, and what is said of those that are."""

import pytest

from harness.comparable import check_comparable, remarks
from harness.record import RunRecord
from tests.harness import records
from tests.harness.records import W1, passed, record, solution


def run(name: str, **changes) -> RunRecord:
    """A record of one cell."""
    return record([solution("a")], [W1], [passed("a", W1, 1.0)], run_id=name, **changes)


def other_version(r: RunRecord) -> None:
    r.environment.versions["flashinfer-bench"] = "0.2.0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: records.set_gpu(r, "NVIDIA H100"),
            ["GPU differs", "NVIDIA H200", "NVIDIA H100"],
        ),
        (other_version, ["flashinfer-bench version differs", "0.2.0"]),
        (lambda r: setattr(r.dataset, "hash", "cd" * 32), ["dataset differs", "cdcdcdcdcdcd"]),
        (lambda r: setattr(r, "timer", "CUPTI"), ["timer differs", "CUPTI"]),
        (
            lambda r: setattr(r, "profile", r.profile.model_copy(update={"iterations": 50})),
            ["iterations of the profile differs", "20", "50"],
        ),
        (lambda r: setattr(r.definition, "name", "rmsnorm"), ["definition differs", "rmsnorm"]),
    ],
)
def test_what_differs_is_named(change, words):
    before, after = run("then"), run("now")
    assert check_comparable([before, after]) == []
    change(after)
    (said,) = check_comparable([before, after])
    for word in [*words, "then", "now"]:
        assert word in said
    assert len(check_comparable([before, before, after])) == 1


def test_wording_of_the_timer_is_no_difference():
    before, after = run("then"), run("now")
    before.timer = "flashinfer-bench 0.1.2: CUDA events around each call, L2 flushed before it"
    after.timer = "flashinfer-bench 0.1.2: CUDA events around each call on an idle GPU"
    assert check_comparable([before, after]) == []


def test_remarks_say_what_may_explain_a_change():
    before, after = run("then"), run("now", partial=True)
    after.environment.host = "elsewhere"
    after.warnings = ["Clocks were held down before the run: hardware slowdown."]
    for cell in after.cells:
        cell.reference_latency_ms = 1.2 * (cell.reference_latency_ms or 0)
    said = " ".join(remarks([before, after]))
    for words in ("another host", "interrupted", "hardware slowdown", "1.20x as long"):
        assert words in said
    assert remarks([before, before]) == ["then and then are the same record."]


def test_records_without_repetitions_are_named():
    """A change between them may be noise, and no interval says how much."""
    few, enough = run("few"), run("enough", repeats=3)
    (said,) = remarks([few, enough])
    assert said == "Without 3 or more repetitions, as in few, a change may be the host's noise."
    assert remarks([enough, run("also", repeats=5)]) == []
    few.timer = None
    assert remarks([few, enough]) == check_comparable([few, enough])
