"""Tables for people and programs, and those of a report."""

import csv
import io
import json
import math
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.paths import Paths
from harness.record import load_record
from harness.report.series import charts_of
from harness.report.tables import tables_of
from harness.report.view import build_report
from harness.tables import columns, table
from tests.harness import records
from tests.harness.folders import harness

GOLDEN = Path(__file__).parent / "report" / "golden"


def test_csv_and_json_have_values_as_they_are():
    header = columns(("name", "Name"), ("value", "Value", lambda v: f"{v:.1f}"))
    made = table("t", header, [["a,b\n", 0.123456], ["[red]", None], ["c", math.inf]])
    rows = list(csv.DictReader(io.StringIO(made.csv())))
    assert [row["value"] for row in rows] == ["0.123456", "", "inf"]
    assert rows[0]["name"] == "a,b\n"
    assert made.records()[0] == {"name": "a,b\n", "value": 0.123456}
    json.loads(json.dumps(made.records()), parse_constant=pytest.fail)
    assert made.shown()[0] == ("a,b\n", "0.1") and made.shown()[1] == ("[red]", "-")


def test_a_row_of_a_wrong_length_is_an_error():
    with pytest.raises(ValueError):
        table("t", columns(("a", "a")), [[1, 2]]).records()


def test_tables_of_a_report():
    found = tables_of(records.failures())
    expected = "cells results summary comparison ranking correctness failures environment"
    assert list(found) == expected.split()
    assert len(found["cells"].rows) == 8 and len(found["failures"].rows) == 5
    wrong = next(r for r in found["cells"].records() if r["status"] == "INCORRECT_NUMERICAL")
    assert wrong["max_abs_error"] == "inf" and wrong["speedup"] is None
    assert wrong["matched_ratio"] == 0.84999
    assert list(tables_of(records.cpu())) == ["cells", "correctness", "failures", "environment"]


@pytest.mark.parametrize("name", records.ALL)
def test_golden(name):
    """All tables and what each chart plots, as data: `UPDATE_GOLDEN=1` rewrites the file, as for the other formats."""
    record = records.ALL[name]()
    data = {
        "tables": {key: one.records() for key, one in tables_of(record).items()},
        "charts": [asdict(chart) for chart in charts_of(build_report(record))],
    }
    rendered = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(rendered)
    assert rendered == path.read_text(), f"{path}: differs"


def test_every_golden_file_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(records.ALL)


@pytest.mark.parametrize("name", records.ALL)
def test_csv_holds_what_json_holds(name):
    for one in tables_of(records.ALL[name]()).values():
        for from_csv, row in zip(
            csv.DictReader(io.StringIO(one.csv())), one.records(), strict=True
        ):
            assert from_csv == {k: "" if v is None else str(v) for k, v in row.items()}


@pytest.mark.parametrize("name", records.ALL)
def test_every_table_survives_both_formats(name):
    for one in tables_of(records.ALL[name]()).values():
        json.loads(json.dumps(one.records()), parse_constant=pytest.fail)
        assert len(list(csv.reader(io.StringIO(one.csv())))) == len(one.rows) + 1
        assert one.rich().row_count == len(one.rows)
        assert "None" not in {text for row in one.shown() for text in row}


def test_report_prints_tables():
    run = "results/2026-11-24-h200-all"
    record = load_record(Paths().results / "2026-11-24-h200-all")
    done = harness("report", run, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == len(record.cells) == 114
    by_key = {(c.solution, c.workload): c for c in record.cells}
    names = {s.label: s.name for s in record.solutions}
    for row in rows:
        cell = by_key[names[row["solution"]], row["workload"]]
        assert float(row["speedup"]) == cell.speedup
        assert float(row["latency_us"]) == pytest.approx((cell.latency_ms or 0) * 1e3)
    data = json.loads(harness("report", run, "--json").stdout)
    assert {"cells", "summary", "ranking", "environment"} <= set(data)
    one = json.loads(harness("report", run, "--table", "ranking", "--json").stdout)
    assert one == data["ranking"] and one[0]["solution"] == "hopper_v1"
    assert "70.00x" in harness("report", run, "--table", "summary").stdout
    green = ("report", run, "--table", "failures", "--csv")
    done = harness(*green)
    assert done.returncode == 0 and done.stdout == "solution,workload,seq_len,status,reason,log\n"
    by_file = harness("report", f"{run}/run.json", "--table", "summary", "--csv")
    assert by_file.returncode == 0 and by_file.stdout.startswith("metric,"), by_file.stderr
    both = harness("report", run, "--json", "--csv")
    assert both.returncode == 2 and "--json, --csv" in both.stderr
    assert both.stderr.count("\n") == 1
    done = harness("report", run, "--table", "sumary")
    assert done.returncode == 2 and "sumary" in done.stderr and "summary" in done.stderr
