"""The pages of docs/ and the README: every command works, every link leads somewhere, every chart is of a committed record."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from harness.manifest import Manifest
from harness.paths import PROJECT
from harness.record import Status, load_record
from harness.report.numbers import times
from harness.report.view import build_report
from harness.stats import rounded
from tests.pages import blocks, fresh_copy, run_blocks

DOCS = PROJECT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
README = PROJECT / "README.md"


def run(copy: Path, name: str, *kinds: str) -> subprocess.CompletedProcess[str]:
    done = run_blocks(copy, DOCS / name, kinds or ("", "setup"), timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def test_add_a_solution(tmp_path: Path):
    copy = fresh_copy(tmp_path)
    run(copy, "add-a-solution.md")
    for name, labels in (
        ("first-try", ["my_variant", "triton_v2"]),
        ("second-try", ["my_variant"]),
    ):
        record = load_record(copy / "results" / name)
        assert [s.label for s in record.solutions] == labels
        assert record.all_passed() and record.cells
    assert json.loads((copy / "build" / "solution.json").read_text())["name"] == "my_variant"
    assert (copy / "build" / "kit" / "config.toml").exists()


def test_reading_a_report(tmp_path: Path):
    copy = fresh_copy(tmp_path)
    before = {p.relative_to(copy): p.read_bytes() for p in (copy / "results").rglob("*.*")}
    done = run(copy, "reading-a-report.md")
    after = {p.relative_to(copy): p.read_bytes() for p in (copy / "results").rglob("*.*")}
    assert {p: after.get(p) for p in before} == before, (
        "rendering a committed record again changes nothing"
    )
    assert "GPU differs" in done.stderr and done.stdout.count("exit code 2") == 2
    assert "rtol of the profile differs: seed-profile has 0.2, contest-profile 0.3" in done.stdout
    assert "contest-profile against seed-profile: 0 regressions, 0 lost" in done.stdout
    traces = (copy / "results" / "2026-11-25-h200-hopper" / "traces.jsonl").read_text().splitlines()
    assert f" {len(traces)} traces" in done.stdout
    assert json.loads((copy / "build" / "tables.json").read_text())["cells"]
    assert (copy / "build" / "cells.csv").read_text().startswith("workload,")
    assert list((copy / "build" / "history" / "triton_v2").glob("*.svg"))


def test_gpu_hosts(tmp_path: Path):
    done = run(fresh_copy(tmp_path), "gpu-hosts.md")
    assert done.stdout.count("hopper_v3") == 2, "make doctor, twice"


@pytest.mark.network
def test_gpu_hosts_with_network(tmp_path: Path):
    """Builds the bundle; the environment gets a package installed into a folder of its own."""
    copy = fresh_copy(tmp_path)
    texts = [text for kind, text in blocks(DOCS / "gpu-hosts.md") if kind == "network"]
    assert any("make bundle" in text for text in texts)
    for text in texts:
        command = text.replace("pip install", f"pip install --target {tmp_path / 'site'}")
        done = subprocess.run(["bash", "-euc", command], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert list((copy / "build" / "bundle" / "wheels").glob("*.whl"))
    assert list((tmp_path / "site").iterdir())


@pytest.mark.parametrize(
    "command",
    [
        line.split("#")[0].strip()
        for _, text in blocks(README)
        for line in text.splitlines()
        if "make " in line
    ],
)
def test_make_commands_of_the_readme_exist(command: str):
    done = subprocess.run(
        command.replace("make ", "make -n ", 1),
        shell=True,
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#\s]+)(#[^)\s]+)?\)", re.sub(r"(?ms)^```.*?^```$", "", text))
    assert links or page != README
    for target, anchor in links:
        if re.match(r"https?:", target):
            continue
        there = page.parent / target
        assert there.exists(), f"{page.name}: {target} is not there"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", there.read_text())
            assert anchor[1:] in {h.lower().replace(" ", "-") for h in headings}, anchor


def test_every_status_is_explained():
    """On the page that says how a cell can end."""
    rows = re.findall(r"(?m)^\| ([A-Z_, ]+) \|", (DOCS / "reading-a-report.md").read_text())
    assert sorted(", ".join(rows).split(", ")) == sorted(status.value for status in Status)


def test_every_key_of_a_manifest_is_explained():
    rows = re.findall(r"(?m)^\| `(\w+)` \|", (DOCS / "add-a-solution.md").read_text())
    assert sorted(rows) == sorted(Manifest.model_fields)


def test_the_numbers_of_the_readmes_table_are_those_of_its_record():
    """To the last digit, and bold where no solution of the record is better, shown or not."""
    text = README.read_text().split("## A result")[1].split("\n## ")[0]
    (run_id,) = set(re.findall(r"\]\(results/([^/]+)/charts/", text))
    record = load_record(PROJECT / "results" / run_id)
    report = build_report(record)
    header, _, *rows = [
        [entry.strip() for entry in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    shown = [report.labels.index(label) for label in header[1:-1]]
    lines: dict[str, tuple[list[float | None], list[bool], str]] = {}
    for row in report.rows:
        cell = next(cell for cell in row.cells if cell.speedup and cell.floor_ratio)
        at_floor = f"{rounded(cell.speedup * cell.floor_ratio, 0)}x"
        values = [cell.speedup for cell in row.cells]
        lines[f"T={row.seq_len}"] = values, [cell.best for cell in row.cells], at_floor
    names = ("Average of 19", "Average T<=901", "Average T>10K")
    for name, line in zip(names, report.summary[:3], strict=True):
        lines[name] = [value.value for value in line.values], list(line.best), ""
    assert len(rows) >= 8
    for name, *entries, floor in rows:
        values, best, at_floor = lines[name]
        expected = [times(values[i] or 0.0) for i in shown]
        assert [entry.strip("*") for entry in entries] == expected, name
        assert [entry.startswith("**") for entry in entries] == [best[i] for i in shown], name
        assert floor == at_floor, name


def test_the_readme_shows_charts_of_the_run_of_its_table():
    text = README.read_text()
    charts = re.findall(r"!\[[^\]]+\]\((results/([^/]+)/charts/[^)]+\.svg)\)", text)
    assert len(charts) >= 2
    (run_id,) = {run for _, run in charts}
    record = load_record(PROJECT / "results" / run_id)
    assert record.environment.gpu and "H200" in record.environment.gpu.name
    table = text.split("## A result")[1].split("| T=1 |")[0]
    assert f"results/{run_id}/comparison.md" in table
    assert all((PROJECT / path).exists() for path, _ in charts)
