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
    with pytest.raises(HarnessError, match="GPU like 'B200'"):
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
    place, group = list(groups.items())[1]
    chart = history_chart(place, group, "c")
    assert chart and [series.label for series in chart.series] == ["a", "b"]
    assert [point.x for point in chart.series[0].points] == [0, 1, 2, 3]
    assert chart.series[0].points[0].y == 40.0 and "profile seed" in chart.title


def test_without_speeds_there_is_no_chart():
    record = records.cpu()
    entries = [entry for entry in [_entry(record)] if entry]
    ((place, group),) = places(entries).items()
    assert history_chart(place, group, "a") is None


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
    assert done.returncode == 0 and "Left out:" in done.stdout and "damaged" in done.stdout
    done = harness("history", "nope")
    assert done.returncode == 2 and "VARIANT" in done.stderr and "triton_v2" in done.stderr
