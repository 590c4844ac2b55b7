"""One solution over all records."""

import json
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.history import find_entries, history_chart, history_table, places
from harness.paths import Paths
from harness.record import save_record
from tests.harness import records
from tests.harness.folders import harness


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three records of one GPU, of which one has another profile; one on the CPU; one that cannot be read."""
    for number, name in enumerate(("b", "a", "c")):
        record = records.four_way()
        record.run_id, record.started = name, f"2026-03-0{9 - number}T00:00:00Z"
        if name == "c":
            record.profile_name = "quick"
            record.profile = record.profile.model_copy(update={"iterations": 5})
        save_record(record, tmp_path / name)
    save_record(records.cpu(), tmp_path / "cpu")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    return tmp_path


def test_entries_are_found_by_any_name_oldest_first(results: Path):
    for name in ("c", "c_moe"):
        entries, unread = find_entries(results, name)
        assert [entry.record.run_id for entry in entries] == ["c", "a", "b"]
        (said,) = unread
        assert "damaged" in said
    entries, _ = find_entries(results, "a")
    assert {entry.record.backend for entry in entries} == {"gpu", "cpu"}
    entries, _ = find_entries(results, "a", gpu="h200")
    assert {entry.record.backend for entry in entries} == {"gpu"}
    with pytest.raises(HarnessError, match=r"no record .* has 'nope'; there are: a, b, c, d"):
        find_entries(results, "nope")
    with pytest.raises(HarnessError, match="there are: CPU, NVIDIA H200"):
        find_entries(results, "c", gpu="B200")


def test_table(results: Path):
    entries, _ = find_entries(results, "a")
    rows = {row["run"]: row for row in history_table(entries, None).records()}
    # 12/.8 = 15, 16/.8 = 20, 20/1 = 20, 45/12 = 3.75.
    assert rows["a"]["average"] == pytest.approx(14.6875)
    assert rows["a"]["large"] == 3.75 and rows["a"]["passed"] == 4
    assert rows["2026-03-04-cpu"]["average"] is None


def test_only_comparable_records_share_a_chart(results: Path):
    entries, _ = find_entries(results, "c")
    groups = places(entries)
    assert [[e.record.run_id for e in group] for group in groups.values()] == [["c"], ["a", "b"]]
    group = list(groups.values())[1]
    chart = history_chart(group, "c")
    assert chart and [series.label for series in chart.series] == ["a", "b"]
    assert [point.x for point in chart.series[0].points] == [0, 1, 2, 3]
    assert chart.series[0].points[0].y == 40.0 and "profile seed" in chart.title


def test_without_speeds_there_is_no_chart():
    record = records.cpu()
    entries = [entry for entry in [_entry(record)] if entry]
    (group,) = places(entries).values()
    assert history_chart(group, "a") is None


def _entry(record):
    from harness.history import Entry

    return Entry(record, record.solutions[0])


def test_command(results: Path, tmp_path: Path):
    out = tmp_path / "charts"
    done = harness("history", "triton_v2", "--gpu", "H200", "--out", out)
    assert done.returncode == 0, done.stderr
    for run in ("2026-11-24-h200", "2026-11-24-h200-again", "2026-11-24-h200-all"):
        assert run in done.stdout
    assert "2026-02-02-b200" not in done.stdout
    assert all(p.read_text().startswith("<svg") for p in out.iterdir()) and list(out.iterdir())
    rows = json.loads(harness("history", "triton_v2", "--json").stdout)
    committed = {p.parent.name for p in Paths().results.glob("*/run.json")}
    assert {row["run"] for row in rows} <= committed and len(rows) >= 5
    done = harness("history", "c", "--results-dir", results)
    assert done.returncode == 0 and "Left out:" in done.stderr and "damaged" in done.stderr
    done = harness("history", "nope")
    assert done.returncode == 2 and "VARIANT" in done.stderr and "triton_v2" in done.stderr


def test_what_compare_refuses_is_not_drawn_together(results: Path):
    """Another timer, version or tolerance gives a chart of its own, and the reader is told why."""
    for name, change in (
        ("t", lambda r: setattr(r, "timer", "CUPTI")),
        ("v", lambda r: r.environment.versions.update({"flashinfer-bench": "0.2.0"})),
        ("p", lambda r: setattr(r, "profile", r.profile.model_copy(update={"atol": 1.0}))),
    ):
        record = records.four_way()
        record.run_id, record.started = name, "2026-04-01T00:00:00Z"
        change(record)
        save_record(record, results / name)
    entries, _ = find_entries(results, "c")
    groups = [[e.record.run_id for e in group] for group in places(entries).values()]
    assert sorted(groups) == [["a", "b"], ["c"], ["p"], ["t"], ["v"]]
    done = harness("history", "c", "--results-dir", results, "--out", results / "charts")
    assert "they differ in timer" in done.stdout and "they differ in atol" in done.stdout


def test_charts_of_an_earlier_call_do_not_stay(results: Path, tmp_path: Path):
    out = tmp_path / "charts"
    assert harness("history", "c", "--results-dir", results, "--out", out).returncode == 0
    assert sorted(p.name for p in out.iterdir()) == ["1.svg", "2.svg"]
    (out / "3.svg").write_text("<svg>of somebody else</svg>")
    for name in ("a", "b"):
        (results / name / "run.json").unlink()
    assert harness("history", "c", "--results-dir", results, "--out", out).returncode == 0
    assert sorted(p.name for p in out.iterdir()) == ["1.svg", "3.svg"]


def test_programs_learn_what_is_left_out(results: Path):
    for form in ("--json", "--csv"):
        done = harness("history", "c", "--results-dir", results, form)
        assert done.returncode == 0 and "Left out:" in done.stderr and "damaged" in done.stderr
    (row, *_) = json.loads(harness("history", "triton_v2", "--json").stdout)[1:]
    assert row["present"] in (True, False)


def test_why_there_is_no_chart(tmp_path: Path):
    save_record(records.cpu(), tmp_path / "cpu")
    done = harness("history", "a", "--results-dir", tmp_path, "--out", tmp_path / "charts")
    assert done.returncode == 0
    assert "No chart of 2026-03-04-cpu: no speed, the CPU backend." in done.stdout
