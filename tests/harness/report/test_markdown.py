"""Rendered comparisons: golden files, and rules that hold for every one of them.

After a wanted change, `UPDATE_GOLDEN=1 pytest tests/harness/report/test_markdown.py` rewrites the
golden files; read their diff before committing it.
"""

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.paths import Paths
from harness.record import RunRecord, load_record, save_record
from harness.report import render_markdown, write_report
from harness.report.markdown import code, code_cell, fenced, quote, table, table_cell, text
from harness.report.numbers import error_size, matched, span, worst_error
from harness.report.shell import line, wrapped
from tests.harness import records

GOLDEN = Path(__file__).parent / "golden"
COMMITTED = sorted(path.parent for path in Paths().results.glob("*/run.json"))
SEED_RUN = Paths().results / "2026-02-02-b200"


@pytest.mark.parametrize("name", records.ALL)
def test_golden(name):
    path = GOLDEN / f"{name}.md"
    rendered = render_markdown(records.ALL[name]())
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(rendered)
    assert rendered == path.read_text(), f"{path}: differs; see the top of this file"


def test_every_golden_file_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.md")} == set(records.ALL)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_results_render_byte_for_byte(folder):
    rendered = render_markdown(load_record(folder))
    assert rendered.encode() == (folder / "comparison.md").read_bytes()


def test_a_title_names_solutions_while_they_are_few():
    assert render_markdown(records.four_way()).startswith(
        "# 4-Way: a vs b vs c vs d — 2026-03-04\n"
    )
    assert render_markdown(records.nine_by_nineteen()).startswith(
        "# 9-Way comparison — 2026-03-04\n"
    )
    assert render_markdown(records.single_solution()).startswith("# a — 2026-03-04\n")


def test_the_seed_run_is_committed():
    assert SEED_RUN in COMMITTED


def every_record() -> list[tuple[str, RunRecord]]:
    made = [(name, maker()) for name, maker in records.ALL.items()]
    return made + [(folder.name, load_record(folder)) for folder in COMMITTED]


def outside_fences(markdown: str) -> list[str]:
    """The lines that are not in a code block; fails when a block is left open."""
    fence, lines = "", []
    for one in markdown.splitlines():
        opening = re.match(r"`{3,}", one)
        if fence:
            if one == fence:
                fence = ""
        elif opening:
            fence = opening[0]
        else:
            lines.append(one)
    assert not fence, "a code block is left open"
    return lines


@pytest.mark.parametrize(
    "record", [r for _, r in every_record()], ids=[n for n, _ in every_record()]
)
def test_rules_for_every_report(record):
    markdown = render_markdown(record)
    assert markdown == render_markdown(RunRecord.model_validate_json(record.model_dump_json()))
    assert markdown.endswith("\n") and not markdown.endswith("\n\n")
    lines = outside_fences(markdown)
    prose = "\n".join(lines)
    assert not re.search(r"\b(None|nan|inf|NaN|Infinity)\b", prose)
    assert not re.search(r"\{\{|\{%|\x1b", markdown)
    assert "\n\n\n" not in markdown
    for number, one in enumerate(lines):
        assert one == one.rstrip()
        if re.fullmatch(r"\|[-:|]+\|", one):
            width = columns(lines[number - 1])
            rows = []
            for row in lines[number + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(row)
            assert rows, f"an empty table: {lines[number - 1]}"
            assert {columns(one), *map(columns, rows)} == {width}
    filled = [one for one in re.sub(r"(?ms)^(`{3,}).*?^\1$", "code", markdown).splitlines() if one]
    for heading, after in pairwise(filled):
        if heading.startswith("#"):
            deeper = after.startswith("#") and after.split()[0] > heading.split()[0]
            assert deeper or not after.startswith("#"), f"an empty section: {heading}"
    assert not filled[-1].startswith("#")


def columns(row: str) -> int:
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", row))


def section(markdown: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}.*?\n(.*?)(?=^## |\Z)", markdown, re.M | re.S)
    return found[1] if found else ""


def headings(markdown: str) -> list[str]:
    return re.findall(r"^## (.*)$", "\n".join(outside_fences(markdown)), re.M)


def test_seed_run_shows_the_documented_tables():
    markdown = render_markdown(load_record(SEED_RUN))
    assert markdown.startswith(
        "# 4-Way: sglang_v1 vs sglang_v2 vs triton_v1 vs triton_v2 — 2026-02-02\n"
    )
    assert "**GPU:** NVIDIA B200 (SM100)" in markdown
    assert "rtol=0.2, atol=0.1, required-matched-ratio=0.85" in markdown
    assert "warmup=5, iterations=20, num_trials=3" in markdown
    assert "All 19 workloads pass for all 4 solutions." in markdown
    assert (
        """
flashinfer-bench run --local "$FIB_DATASET_PATH" \\
  --definitions moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048 \\
"""
        in markdown
    )
    for row in (
        "| e05c6c03 | 1 | 32 | 17.94x | 23.00x | 28.74x | **37.58x** | triton_v2 |",
        "| f7d6ac7c | 52 | 160 | 20.45x | **27.44x** | 18.01x | 23.86x | sglang_v2 |",
        "| 5e8dc11c | 14107 | 32 | 3.84x | 4.39x | **4.99x** | **4.99x** "
        "| tie: triton_v1 and triton_v2 |",
        "| Average | 17.69x | 23.32x | 22.69x | **29.48x** |",
        "| Small-batch avg (T<=901) | 19.34x | 25.57x | 24.79x | **32.38x** |",
        "| Large-batch avg (T>10K) | 3.73x | 4.23x | 4.82x | **4.83x** |",
        "| Min | 3.61x | 4.07x | 4.64x | 4.67x |",
        "| Max | 22.35x | 30.34x | 30.16x | 37.58x |",
    ):
        assert row in markdown
    assert "triton_v2 is best on 17 of 19 workloads and ties on 1." in markdown
    assert "Of 56 statements that its table can check, 48 agree with it and 8 do not." in markdown
    for absent in ("Latency and floor", "Matched ratio", "Gap to the flashinfer baseline"):
        assert absent not in headings(markdown)


def test_rows_are_sorted_by_tokens():
    record = records.four_way()
    record.workloads.reverse()
    record.cells.reverse()
    assert render_markdown(record) == render_markdown(records.four_way())


def test_cpu_report_has_no_speed_even_where_cells_carry_one():
    record = records.cpu()
    for cell in record.cells:
        cell.latency_ms, cell.speedup = 3.25, 12.5
    markdown = render_markdown(record)
    assert markdown == render_markdown(records.cpu())
    assert "No speed was measured" in markdown
    assert not re.search(r"\d\.\d\dx\b|speedup", markdown, re.I)
    assert "| one-token | 1 | 32 | PASS 1.0000 | PASS 0.9999 |" in markdown
    assert "| all-local | 19 | 160 | PASS 0.9300 | FAIL 0.5000 (INCORRECT_NUMERICAL) |" in markdown


def test_failures_are_shown_and_enter_no_average():
    markdown = render_markdown(records.failures())
    results = section(markdown, "Results")
    assert "| 57575757 | 57 | 96 | INCORRECT_NUMERICAL | **40.00x** |" in results
    assert "16000" not in markdown
    summary = section(markdown, "Summary statistics")
    assert "| Average | 120.00x (over 1 of 2) | **35.00x** | - | - |" in summary
    assert "wrong is not ranked: it has a speedup on 1 of 2 workloads." in markdown
    failures = section(markdown, "Failures and skips")
    assert "### broken: COMPILE_ERROR on 2 of 2 workloads" in failures
    assert "largest absolute error infinite, largest relative error not a number" in failures
    assert "lowest matched ratio 0.8499" in failures, "0.84999 must not read as a passing 0.8500"
    assert "needs compute capability 10.0" in failures
    assert "````text\nerror: a | b\n```\nwithin a fence\n```\n<b>end</b>\n````" in failures


def test_partial_record_says_so_at_the_top():
    markdown = render_markdown(records.partial())
    top = markdown.split("## ")[0]
    assert "**Partial record: the run was interrupted. 3 of 6 cells are missing:" in top
    assert "1 of 3 of a and 2 of 3 of b" in top
    assert "| 90190190 | 901 | 96 | MISSING | MISSING | - |" in markdown
    assert "| Average | 17.63x (over 2 of 3) | 24.00x (over 1 of 3) |" in markdown
    assert "over the 1 workload that every solution finished" in markdown
    assert "**b > a**" in markdown


@pytest.mark.parametrize(("second", "times"), [(2, "2"), (3, "2 to 3"), (1, "1 to 2")])
def test_a_record_that_lacks_repetitions_says_so(second: int, times: str):
    """Interrupted after the first of several passes over the workloads."""
    cells = [
        passed.model_copy(update={"repeat_latencies_ms": [0.5] * n if n > 1 else []})
        for passed, n in zip(records.single_workload().cells, (2, second), strict=True)
    ]
    whole = records.single_workload().model_copy(update={"cells": cells, "repeats": 5})
    top = render_markdown(whole.model_copy(update={"partial": True})).split("## ")[0]
    assert f"No cell is missing, but of 5 repetitions each has {times}." in top
    assert "Partial record" not in render_markdown(whole)


def test_single_solution_has_nothing_to_compare():
    markdown = render_markdown(records.single_solution())
    assert markdown.startswith("# a — 2026-03-04\n")
    assert "-Way" not in markdown
    assert "best" not in section(markdown, "Results")
    assert "| 11111111 | 1 | 32 | 24.00x |" in markdown
    for absent in ("vs other", "Overall ranking"):
        assert not any(absent in heading for heading in headings(markdown))


def test_baseline_gap_only_where_the_baseline_ran():
    markdown = render_markdown(records.baseline())
    gap = section(markdown, "Gap to the flashinfer baseline")
    # a 20, 33.33; b 24, 40 (mean 32); flashinfer 30, 36.36 (mean 33.18).
    assert "b is the best other solution." in gap
    assert "0.96x that of flashinfer_moe (ratio of averages), 3.6% behind it" in gap
    assert "0.80x at 11111111 (T=1) to 1.10x at 90190190 (T=901); b is faster on 1 of 2" in gap
    assert "Gap to the flashinfer baseline" not in headings(render_markdown(records.four_way()))


def test_floor_is_shown_with_what_binds():
    floors = section(render_markdown(records.four_way()), "Latency and floor")
    row = next(one for one in floors.splitlines() if one.startswith("| 14107141 "))
    assert "| 1090.8 | compute | 12000.0 | 10000.0 | 9000.0 | 9001.0 | 11.00x | 9.17x |" in row
    assert "4400 GB/s" in floors and "1300 TFLOP/s" in floors
    without = render_markdown(records.single_workload())
    assert "/ floor" not in without
    assert "| 57575757 | 57 | 500.0 | 510.0 |" in without


def test_a_latency_under_the_floor_is_doubted():
    record = records.single_solution()
    record.cells[0].latency_ms = 0.001
    assert "1 cell is faster than the floor" in render_markdown(record)


def test_a_leader_that_ties_everywhere_is_said_to_tie():
    """The table above says that noise may explain the lead, so the text must not name one."""
    sizes = section(render_markdown(records.repeated()), "Analysis by batch size")
    assert "a and b tie on the only workload, with averages of 24.00x and 23.53x." in sizes
    assert "**T=57** (1 workload): b has the highest average, 26.67x, and is best on 1" in sizes


def test_a_leader_that_ties_with_another_on_each_workload():
    record = records.speeds(a={1: 5.0, 2: 9.0}, b={1: 5.0, 2: 1.0}, c={1: 1.0, 2: 9.0})
    sizes = section(render_markdown(record), "Analysis by batch size")
    assert "a has the highest average, 7.00x, and ties with another on each of the 2" in sizes


def reproduce(record: RunRecord) -> tuple[str, list[str]]:
    """The sentences and the commands of the section."""
    part = section(render_markdown(record), "How to reproduce")
    sentences, commands = part.split("```bash\n")
    return sentences.strip(), commands.split("```")[0].splitlines()


def test_what_reproduces_a_run_can_work():
    """The page is rendered while its record is still there, and no name is asked for that is taken."""
    for command in (["bench", "a", "--run", "mine"], ["bench", "a", "--run=mine"]):
        record = records.four_way()
        record.command = command
        sentences, commands = reproduce(record)
        assert sentences == ""
        assert commands[0].startswith("make report RUN=results/2026-03-04-h200 ")
        assert commands[1:] == ["git checkout c0ffee", "bench a"]
    record.command = ["make", "bench", "RUN=mine", "SOLUTIONS=a b"]
    assert reproduce(record)[1][2] == 'make bench SOLUTIONS="a b"'


def test_a_commit_that_is_not_all_is_not_checked_out():
    sentences, commands = reproduce(records.all_verified())
    assert "uncommitted changes" in sentences and "identified by their hashes" in sentences
    assert not any("git checkout" in one for one in commands)
    assert commands[-1] == "python -m harness bench a b --verify"
    record = records.four_way()
    record.environment.git_dirty = None
    sentences, commands = reproduce(record)
    assert "is not known" in sentences and commands[1].startswith("git checkout c0ffee  # if")


def test_synthetic_dataset_is_called_that():
    assert "**Dataset:** synthetic" in render_markdown(records.four_way())
    real = render_markdown(records.single_solution())
    assert "synthetic" not in real
    assert "FIB_DATASET_PATH" in section(real, "How to reproduce")


def test_workload_ids_are_short_only_where_that_is_clear():
    record = records.single_solution()
    twin = record.workloads[0].id[:8] + record.workloads[1].id[8:]
    record.workloads[1].id = record.cells[1].workload = twin
    markdown = render_markdown(record)
    assert f"| {twin} | 57 |" in markdown
    assert f"| {record.workloads[0].id} | 1 |" in markdown
    assert "| 90190190 | 901 |" in markdown


def test_same_labels_fall_back_to_full_names():
    record = records.single_workload()
    for solution in record.solutions:
        solution.label = "same"
    assert render_markdown(record).startswith("# 2-Way: a_moe vs b_moe")


def test_solutions_of_different_coverage_are_not_set_against_each_other():
    """Each lacks another workload: no bold average, and the ranking is on the common one."""
    record = records.speeds(a={1: 9.0, 2: 30.0}, b={1: 8.0, 3: 40.0})
    markdown = render_markdown(record)
    assert "| Average | 19.50x (over 2 of 3) | 24.00x (over 2 of 3) |" in markdown
    assert "over the 1 workload that all of them passed" in markdown
    assert "**a > b**" in markdown


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": 10.0, "b": 9.0}, "**a > b**"),
        ({"a": 10.0, "b": 9.6}, "**a ≈ b**"),
        ({"a": 10.0, "b": 10.001}, "**b = a**"),
    ],
)
def test_ranking_line(values, expected):
    record = records.speeds(**{label: {1: value} for label, value in values.items()})
    assert expected in render_markdown(record)


def test_write_report_is_atomic_and_repeatable(tmp_path):
    save_record(records.four_way(), tmp_path)
    path = write_report(tmp_path)
    first = path.read_bytes()
    assert path == tmp_path / "comparison.md"
    assert (
        write_report(tmp_path).read_bytes() == first == render_markdown(records.four_way()).encode()
    )
    assert {p.name for p in tmp_path.iterdir()} == {
        "run.json",
        "comparison.md",
        "report.html",
        "charts",
    }


def test_infinite_errors_survive_the_file(tmp_path):
    save_record(records.failures(), tmp_path)
    assert render_markdown(load_record(tmp_path)) == render_markdown(records.failures())


def test_write_report_without_a_record(tmp_path):
    with pytest.raises(HarnessError, match=r"run\.json"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_free_text_cannot_break_out():
    assert table_cell("a | b\nc <i> \\|") == "a \\| b c &lt;i> \\\\\\|"
    assert columns(f"| {table_cell('a | b')} | x |") == 3
    assert text("one\r\ntwo\x1b[0m") == "one two"
    assert code("a `b` ``c") == "``` a `b` ``c```".replace("``` a", "```a")
    assert code("`x`") == "`` `x` ``"
    assert code(" \n ") == ""
    assert code_cell("a|b") == "`a\\|b`"
    assert fenced("x") == "```text\nx\n```"
    assert fenced("````\n", "bash") == "`````bash\n````\n`````"
    assert quote("# h\n\n```") == "> # h\n>\n> ```"
    assert table(["a"], "l", []) == ""


def test_numbers():
    assert matched(0.99996) == "0.9999"
    assert matched(1.0) == "1.0000"
    assert matched(0.85) == "0.8500", "the float is a little under 0.85"
    assert matched(float("nan")) == "not a number"
    assert error_size(float("-inf")) == error_size(float("inf")) == "infinite"
    assert error_size(0.123456) == "0.123"
    assert str(worst_error([1.0, float("nan"), float("inf")])) == "nan"
    assert worst_error([None, 1.0, float("inf")]) == float("inf")
    assert worst_error([None]) is None
    assert span(1.0, 1.004, "x") == "1.00x"
    assert span(1.0, 1.006, "x") == "1.00-1.01x"


def test_commands_can_be_pasted():
    assert line(["make", "bench", "SOLUTIONS=a b", "GPU=0"]) == 'make bench SOLUTIONS="a b" GPU=0'
    assert line(["x", "A=$(rm) b", "it's"]) == "x 'A=$(rm) b' 'it'\"'\"'s'"
    assert line(["run", "--local", "$FIB_DATASET_PATH"]) == 'run --local "$FIB_DATASET_PATH"'
    command = ["run", "--a", "1", "2", "--bb", "3", "--c", "4"]
    assert wrapped(command, 12) == "run --a 1 2 \\\n  --bb 3 \\\n  --c 4"
    assert wrapped(command, 100) == "run --a 1 2 --bb 3 --c 4"
    assert wrapped([]) == ""
