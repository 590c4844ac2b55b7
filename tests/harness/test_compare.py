"""Records side by side: what counts as a regression, what may be compared, and the exit codes."""

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest

from harness.compare import Change, RecordChange, compare_records
from harness.compare_tables import verdict
from harness.errors import HarnessError
from harness.paths import PROJECT
from harness.record import RunRecord, save_record
from tests.harness import records
from tests.harness.folders import harness
from tests.harness.records import W1, W57, failed, passed, record, solution


def run(name: str, latencies: dict[str, list[float]], **changes) -> RunRecord:
    """A record of two workloads; a latency of 0 is a failure."""
    cells = []
    for label, values in latencies.items():
        for workload, ms in zip((W1, W57), values, strict=True):
            cells.append(
                passed(label, workload, ms) if ms else failed(label, workload, "RUNTIME_ERROR")
            )
    return record(
        [solution(label) for label in latencies], [W1, W57], cells, run_id=name, **changes
    )


def changes_of(found: RecordChange) -> dict[tuple[str, str], Change]:
    return {(c.solution.removesuffix("_moe"), c.workload[:2]): c.change for c in found.cells}


def test_each_kind_of_change():
    before = run("then", {"a": [1.0, 1.0], "b": [1.0, 0], "c": [1.0, 0]})
    after = run("now", {"a": [1.2, 0.8], "b": [1.04, 1.0], "c": [0, 0]})
    found = compare_records(before, after)
    assert changes_of(found) == {
        ("a", "11"): Change.REGRESSION,
        ("a", "57"): Change.GAIN,
        ("b", "11"): Change.SAME,
        ("b", "57"): Change.MENDED,
        ("c", "11"): Change.LOST,
        ("c", "57"): Change.NOT_COMPARED,
    }
    assert found.regressed
    assert found.solutions[0].ratio == pytest.approx((1.2 * 0.8) ** 0.5)
    assert found.solutions[2].ratio is None
    assert verdict(found, 0.05) == (
        "now against then: 1 regression, 1 lost, 1 gain, 1 within 5%, 1 mended, 1 not compared, of 6 cells."
    )


@pytest.mark.parametrize(
    ("factor", "threshold", "expected"),
    [
        (1.049, 0.05, Change.SAME),
        (1.051, 0.05, Change.REGRESSION),
        (1 / 1.049, 0.05, Change.SAME),
        (1 / 1.051, 0.05, Change.GAIN),
        (1.2, 0.25, Change.SAME),
        (1.0, 0.0, Change.SAME),
        (1.001, 0.0, Change.REGRESSION),
    ],
)
def test_threshold(factor, threshold, expected):
    found = compare_records(
        run("then", {"a": [1.0, 1.0]}), run("now", {"a": [factor, 1.0]}), threshold
    )
    assert changes_of(found)["a", "11"] is expected


def test_repetitions_that_overlap_are_noise():
    """10% slower by the medians: noise when the intervals overlap, a regression when they do not."""
    before, noisy, slower = (run(name, {"a": [1.0, 1.0]}) for name in ("then", "noisy", "slower"))
    before.cells[0] = passed("a", W1, 1.0, repeat_latencies_ms=[1.0, 0.9, 1.2, 1.0, 1.1])
    noisy.cells[0] = passed("a", W1, 1.1, repeat_latencies_ms=[1.1, 1.0, 1.1, 1.3, 1.2])
    slower.cells[0] = passed("a", W1, 1.3, repeat_latencies_ms=[1.3, 1.3, 1.31, 1.3, 1.3])
    assert changes_of(compare_records(before, noisy))["a", "11"] is Change.NOISE
    assert not compare_records(before, noisy).regressed
    assert changes_of(compare_records(before, slower))["a", "11"] is Change.REGRESSION


def test_speedups_stand_in_where_a_record_has_no_latency():
    before, after = records.speeds(a={1: 10.0}), records.speeds(a={1: 5.0})
    (cell,) = compare_records(before, after).cells
    assert cell.ratio == 2.0 and cell.change is Change.REGRESSION


def test_solutions_of_one_record_only():
    found = compare_records(
        run("then", {"a": [1.0, 1.0], "old": [1.0, 1.0]}),
        run("now", {"a": [1.0, 1.0], "new": [1.0, 1.0]}),
    )
    assert (found.only_before, found.only_after) == (("old",), ("new",))
    assert not found.regressed


def test_sources():
    before, after = run("then", {"a": [1.0, 1.0]}), run("now", {"a": [1.0, 1.0]})
    assert compare_records(before, after).solutions[0].same_source is True
    after.solutions[0].source_hash = "other"
    assert compare_records(before, after).solutions[0].same_source is False
    after.solutions[0].source_hash = None
    assert compare_records(before, after).solutions[0].same_source is None


def test_nothing_in_common():
    with pytest.raises(HarnessError, match="no solution in common"):
        compare_records(run("then", {"a": [1.0, 1.0]}), run("now", {"b": [1.0, 1.0]}))
    with pytest.raises(HarnessError, match="no workload in common"):
        compare_records(run("then", {"a": [1.0, 1.0]}), records.speeds(a={1: 1.0}))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    made = {
        "then": run("then", {"a": [1.0, 1.0]}),
        "same": run("same", {"a": [1.01, 1.0]}),
        "slow": run("slow", {"a": [2.0, 1.0]}),
    }
    for name, one in made.items():
        save_record(one, tmp_path / name)
    records.set_gpu(made["same"], "NVIDIA H100")
    save_record(made["same"], tmp_path / "elsewhere")
    return tmp_path


def test_exit_codes(folders: Path):
    same = harness("compare", folders / "then", folders / "same")
    assert same.returncode == 0, same.stderr
    assert "same against then: 0 regressions, 0 lost" in same.stdout
    slow = harness("compare", "then", "same", "slow", "--results-dir", folders)
    assert slow.returncode == 3
    assert "2.00x" in slow.stdout and "slow against then: 1 regression" in slow.stdout
    assert (
        harness("compare", folders / "then", folders / "slow", "--threshold", 150).returncode == 0
    )
    for arguments, words in (
        (["then"], "two or more"),
        (["then", "nowhere"], "run.json"),
        (["then", "elsewhere"], "GPU differs: then has NVIDIA H200, same NVIDIA H100"),
    ):
        done = harness("compare", *arguments, "--results-dir", folders)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    allowed = harness("compare", folders / "then", folders / "elsewhere", "--allow-different")
    assert allowed.returncode == 0


def test_for_programs(folders: Path):
    done = harness("compare", folders / "then", folders / "slow", "--json")
    data = json.loads(done.stdout)
    assert done.returncode == 3 and data["regressed"] is True
    assert data["records"] == ["then", "slow"]
    assert data["cells"][0] == {
        "solution": "a",
        "workload": W1.id,
        "seq_len": 1,
        "before": "then",
        "before_status": "PASSED",
        "before_latency_us": 1000.0,
        "before_speedup": 12.0,
        "after": "slow",
        "after_status": "PASSED",
        "after_latency_us": 2000.0,
        "after_speedup": 6.0,
        "ratio": 2.0,
        "change_percent": 100.0,
        "change": "regression",
    }
    assert data["differences"] == [] and data["only"][0]["only_before"] == []
    done = harness("compare", folders / "then", folders / "slow", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["change"] for row in rows] == ["regression", "same"]
    assert float(rows[0]["after_latency_us"]) == 2000.0


def test_what_differs_is_said_where_it_is_allowed(folders: Path):
    """--allow-different compares, and still names every difference, to people and to programs."""
    where = (folders / "then", folders / "elsewhere", "--allow-different")
    said = "GPU differs: then has NVIDIA H200, same NVIDIA H100"
    assert said in harness("compare", *where).stdout
    assert json.loads(harness("compare", *where, "--json").stdout)["differences"] == [said]


def test_a_copied_record_keeps_its_columns(folders: Path):
    """Two records of one run id: nothing of either is lost, and what is said of one record is said once."""
    one = run("then", {"a": [1.0, 1.0]}, warnings=["Clocks were held down."])
    for name in ("one", "copy"):
        save_record(one, folders / name)
    save_record(run("then", {"a": [3.0, 1.0]}), folders / "other")
    done = harness("compare", *(folders / n for n in ("one", "copy", "other")), "--json")
    data = json.loads(done.stdout)
    names = [str(folders / name) for name in ("one", "copy", "other")]
    assert done.returncode == 3 and data["records"] == names
    assert [(c["after"], c["after_latency_us"]) for c in data["cells"] if c["seq_len"] == 1] == [
        (names[1], 1000.0),
        (names[2], 3000.0),
    ]
    assert sum("Clocks were held down" in line for line in data["remarks"]) == 1
    assert f"{names[1]} and {names[0]} are the same record." in data["remarks"]
    done = harness("compare", folders / "one", folders / "one", "--json")
    data = json.loads(done.stdout)
    assert len(set(data["records"])) == 2 and len(data["remarks"]) == 2


def test_cells_that_a_record_lacks_are_lost(folders: Path):
    """As in the report of that record, where they are MISSING: they must not count as fine."""
    before, after = run("then", {"a": [1.0, 1.0]}), run("now", {"a": [1.0, 1.0]})
    del after.cells[1]
    found = compare_records(before, after)
    assert changes_of(found) == {("a", "11"): Change.SAME, ("a", "57"): Change.LOST}
    assert found.regressed and found.cells[1].after.status.value == "MISSING"
    save_record(after, folders / "now")
    done = harness("compare", folders / "then", folders / "now")
    assert done.returncode == 3 and "1 lost" in done.stdout and "MISSING" in done.stdout


def test_workloads_of_one_record_only_are_named(folders: Path):
    before, after = run("then", {"a": [1.0, 1.0]}), run("now", {"a": [1.0, 1.0]})
    after.workloads, after.cells = after.workloads[:1], after.cells[:1]
    found = compare_records(before, after)
    assert found.workloads_only_before == (W57.id,) and found.workloads_only_after == ()
    save_record(after, folders / "now")
    done = harness("compare", folders / "then", folders / "now")
    assert done.returncode == 0 and "1 workload only in then: 57575757 (T=57)." in done.stdout
    data = json.loads(harness("compare", folders / "then", folders / "now", "--json").stdout)
    assert data["only"][0]["workloads_only_before"] == [W57.id]


def test_where_nothing_passed_there_is_nothing_to_compare(folders: Path):
    """No cell compared is no success."""
    before, after = run("then", {"a": [0, 0]}), run("now", {"a": [0, 0]})
    with pytest.raises(HarnessError, match="no cell in common that passed in either"):
        compare_records(before, after)
    after.cells.clear()
    with pytest.raises(HarnessError, match="nothing can be compared"):
        compare_records(before, after)


def test_records_without_speeds_are_compared_by_what_passed():
    """As on the CPU backend."""
    before, after = records.cpu(), records.cpu()
    (all_local,) = (c for c in after.cells if c.matched_ratio == 0.93)
    after.cells[after.cells.index(all_local)] = all_local.model_copy(
        update={"status": records.Status.INCORRECT_NUMERICAL}
    )
    found = compare_records(before, after)
    assert [c.change for c in found.cells] == [
        *(Change.PASSED, Change.LOST, Change.PASSED, Change.NOT_COMPARED),
    ]


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_threshold_is_a_number_of_percent(folders: Path, value: str):
    """An infinite one would pass everything."""
    done = harness("compare", folders / "then", folders / "slow", "--threshold", value)
    assert done.returncode == 2 and "--threshold" in done.stderr
    assert done.stderr.count("\n") == 1


def test_make_compare_hands_everything_over():
    command = "make -n compare A=results/x B=results/y C=results/z THRESHOLD=10"
    done = subprocess.run(command, shell=True, cwd=PROJECT, capture_output=True, text=True)
    text = " ".join(done.stdout.replace("\\\n", " ").split())
    assert 'compare "results/x" "results/y" "results/z" --threshold "10"' in text
