"""Numbers that no measurement gives: one of them must not take a report or a table of many records with it."""

import math

import pytest

from harness.credible import credible
from harness.history import find_entries, history_table
from harness.record import Ceilings, RunRecord, save_record
from harness.report import render_markdown
from harness.report.tables import tables_of
from tests.harness import records
from tests.harness.folders import harness

BAD = [
    ("latency_ms", math.inf),
    ("speedup", 1e300),
    ("speedup", math.nan),
    ("speedup", -1.0),
    ("latency_ms", 0.0),
    ("reference_latency_ms", math.inf),
    ("matched_ratio", 1e300),
    ("repeat_latencies_ms", [1.0, math.inf, 1.0]),
]


def with_bad(key: str, value: object) -> RunRecord:
    record = records.four_way()
    record.cells[0] = record.cells[0].model_copy(update={key: value})
    return record


def test_an_honest_record_is_not_touched():
    for maker in records.ALL.values():
        record = maker()
        assert credible(record) == (record, ()) or maker is records.failures
        assert credible(record)[0].workloads == record.workloads


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_number_is_absent_and_named(key: str, value: object):
    record, (said,) = credible(with_bad(key, value))
    assert not getattr(record.cells[0], key)
    assert key in said and "a_moe on 11111111" in said
    assert record.cells[1:] == records.four_way().cells[1:]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_reports_survive_and_say_so(key: str, value: object):
    record = with_bad(key, value)
    markdown = render_markdown(record)
    assert f"The record's {key} of a_moe on" in markdown.split("## Warnings")[1]
    assert tables_of(record)["cells"].shown()


def test_bad_ceilings_give_no_floor():
    record = records.four_way()
    record.ceilings = Ceilings(read_gb_per_s=math.inf, fp8_tflop_per_s=1.0, method="m")
    markdown = render_markdown(record)
    assert "ceilings cannot have been measured" in markdown and "/ floor |" not in markdown


def test_history_survives_one_bad_record_and_names_it(tmp_path):
    save_record(records.four_way(), tmp_path / "good")
    bad = with_bad("latency_ms", math.inf)
    bad.cells[4] = bad.cells[4].model_copy(update={"speedup": 1e300})
    save_record(bad, tmp_path / "bad")
    entries, left_out = find_entries(tmp_path, "a")
    assert len(entries) == 2 and len(history_table(entries, None).shown()) == 2
    assert len(left_out) == 2 and all("bad/run.json" in line for line in left_out)
    where = ("--results-dir", tmp_path, "--out", tmp_path / "charts")
    done = harness("history", "a", *where)
    assert done.returncode == 0 and "bad/run.json" in done.stderr, done.stderr
    assert harness("report", tmp_path / "bad").returncode == 0
    assert harness("compare", tmp_path / "good", tmp_path / "bad").returncode == 0
