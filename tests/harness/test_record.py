"""The record survives a round trip, and what is no record is refused."""

import json
import math
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.paths import PROJECT
from harness.record import Cell, RunRecord, Status, load_record, save_record
from harness.report import render_markdown

SEED = PROJECT / "results" / "2026-02-02-b200"


def _without_version() -> str:
    """A record that is whole but for its version: nobody knows what its keys mean."""
    data = json.loads((SEED / "run.json").read_text())
    del data["schema_version"]
    return json.dumps(data)


def _twice(key: str) -> str:
    data = json.loads((SEED / "run.json").read_text())
    data[key].append(data[key][0])
    return json.dumps(data)


def _strange() -> str:
    data = json.loads((SEED / "run.json").read_text())
    data["cells"][0]["workload"] = "zzz"
    return json.dumps(data)


COMMITTED = sorted(path.parent for path in (PROJECT / "results").glob("*/run.json"))


def test_round_trip_with_inf_and_nan(tmp_path: Path) -> None:
    record = load_record(SEED)
    bad = Cell(
        solution=record.solutions[0].name,
        workload=record.workloads[0].id,
        status=Status.INCORRECT_NUMERICAL,
        max_abs_error=math.inf,
        max_rel_error=math.nan,
    )
    record.cells[0] = bad
    save_record(record, tmp_path)
    json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)  # strict JSON
    again = load_record(tmp_path).cells[0]
    assert again.max_abs_error == math.inf and math.isnan(again.max_rel_error or 0)


def test_all_passed() -> None:
    record = load_record(SEED)
    assert record.all_passed()
    assert not record.model_copy(update={"partial": True}).all_passed()
    for status, passed in (
        (Status.SKIPPED, True),
        (Status.MISSING, False),
        (Status.TIMEOUT, False),
    ):
        cells = [record.cells[0].model_copy(update={"status": status}), *record.cells[1:]]
        assert record.model_copy(update={"cells": cells}).all_passed() is passed
    skipped = [c.model_copy(update={"status": Status.SKIPPED}) for c in record.cells]
    assert not record.model_copy(update={"cells": skipped}).all_passed()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such record"),
        ("{", "whole file"),
        ('{"schema_version": 2}', "'schema_version': 2, and this version of the harness reads 1"),
        ('{"run_id": "x"}', "'schema_version': missing"),
        (
            '{"schema_version": 0, "environment": {"git_commit": "c0ffee"}}',
            "wrote it, commit c0ffee",
        ),
        ('{"schema_version": 1}', "'run_id': Field required"),
        ("[]", "whole file"),
        (_without_version(), "'schema_version': missing, and this version"),
        ("[" * 100_000, "whole file"),
        (_twice("workloads"), r"workload \S+ is there twice"),
        (_twice("solutions"), "solution sglang_fp8_blockwise_moe_v1 is there twice"),
        (_twice("cells"), "cell .* is there twice"),
        (_strange(), "zzz.* is of no solution or workload of the record"),
    ],
)
def test_damaged(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(HarnessError, match=words) as error:
        load_record(tmp_path)
    assert str(tmp_path / "run.json") in str(error.value)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_record_from_before_a_key_existed_renders(tmp_path: Path, folder: Path) -> None:
    """Keys that later versions added have defaults: without them a record reads as it did."""
    record = load_record(folder)
    data = record.model_dump_json(exclude_defaults=True)
    first = {"schema_version": record.schema_version, **json.loads(data)}
    (tmp_path / "run.json").write_text(json.dumps(first))
    assert len(first) < len(RunRecord.model_fields)
    assert render_markdown(load_record(tmp_path)) == render_markdown(record)


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    data = json.loads((SEED / "run.json").read_text())
    data["colour"] = "red"
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(HarnessError, match="'colour'"):
        load_record(tmp_path)
