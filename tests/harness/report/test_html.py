"""The HTML report: golden files, and rules that hold for every one of them. The browser has its own tests.

The golden files leave out style sheet, script and the inside of charts, which have tests of their own.
`UPDATE_GOLDEN=1 pytest tests/harness/report/test_html.py` rewrites them; read their diff before committing it.
"""

import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.paths import Paths
from harness.record import RunRecord, load_record, save_record
from harness.report import render_html, write_report
from harness.report.charts import draw
from harness.report.series import charts_of
from harness.report.view import build_report
from tests.harness import records
from tests.harness.folders import harness
from tests.harness.report.rounding import alike

GOLDEN = Path(__file__).parent / "golden"
COMMITTED = sorted(path.parent for path in Paths().results.glob("*/run.json"))
EVERY = [(name, maker()) for name, maker in records.ALL.items()]
EVERY += [(folder.name, load_record(folder)) for folder in COMMITTED]
VOID = {"meta", "link", "input", "br", "hr", "img"}


def page(record: RunRecord) -> str:
    return render_html(record, {c.name: draw(c) for c in charts_of(build_report(record))})


def outline(html: str) -> str:
    """The page without what is the same on each, and without the drawings."""
    html = re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>", "", html)
    return re.sub(r"(?s)(<svg)(?:.*?)( aria-label=\"[^\"]*\")(?:.*?)(</svg>)", r"\1\2>\3", html)


@pytest.mark.parametrize("name", records.ALL)
def test_golden(name: str):
    path = GOLDEN / f"{name}.html"
    rendered = outline(page(records.ALL[name]()))
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(rendered)
    assert rendered == path.read_text(), f"{path}: differs; see the top of this file"


def test_every_golden_file_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.html")} == set(records.ALL)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_pages_render_again(folder: Path):
    assert alike(page(load_record(folder)), (folder / "report.html").read_text(encoding="utf-8"))


def test_only_the_last_digit_of_a_coordinate_may_differ():
    assert alike('d="M 262.132718 18.1"', 'd="M 262.132717 18.1"')
    for other in ('d="M 262.132716 18.1"', 'd="M 262.132718 18.2"', 'd="L 262.132718 18.1"', ""):
        assert not alike('d="M 262.132718 18.1"', other)


class Checker(HTMLParser):
    """Collects what a page must not have: unbalanced tags, repeated ids, anything from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.wrong: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        for key in ("src", "href", "xlink:href", "action"):
            if not re.match(r"#|data:,$", values.get(key) or "#"):
                self.wrong.append(f"{tag} {key}={values[key]}")
        self.text += " ".join(f" {values.get(k) or ''}" for k in ("data-tip", "aria-label"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.mark.parametrize("record", [r for _, r in EVERY], ids=[n for n, _ in EVERY])
def test_rules_for_every_page(record: RunRecord):
    html = page(record)
    assert html == page(RunRecord.model_validate_json(record.model_dump_json()))
    checker = Checker()
    checker.feed(html)
    assert checker.wrong == [] and checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert not re.search(r"\b(None|nan|inf|NaN|Infinity|undefined)\b", checker.text)
    assert "{{" not in html and "{%" not in html and "\x1b" not in html
    assert "@import" not in html and "url(" not in re.sub(r"url\(#", "", html)
    rows = len(record.solutions) * len(record.workloads)
    assert html.count("<tr data-solution=") == rows == html.count("data-tip=")
    assert html.count("<caption>") == 2 and outline(html).count("aria-sort=") == 1
    assert not re.search(r"<(tbody|figure)[^>]*>\s*</", html)


def test_a_failure_shows_its_log_and_nothing_of_it_is_markup():
    html = page(records.failures())
    assert "<summary>nvcc: a | `b`\nfailed</summary>" in html
    assert "&lt;b&gt;end&lt;/b&gt;" in html and "<b>end</b>" not in html
    assert 'data-sort="inf">infinite<' in html and 'data-sort="nan">not a number<' in html


class Stops(HTMLParser):
    """Collects what the Tab key goes to, and what scrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.tips: list[str] = []
        self.unnamed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        classes = (values.get("class") or "").split()
        if "tipped" in classes and values.get("tabindex") != "-1":
            self.tips.append(values.get("data-tip") or "")
        named = values.get("aria-label") or values.get("aria-labelledby")
        if {"scroll", "chart"} & set(classes) and not (values.get("role") == "region" and named):
            self.unnamed.append(tag)


@pytest.mark.parametrize("record", [r for _, r in EVERY], ids=[n for n, _ in EVERY])
def test_the_tab_key_goes_to_what_explains_something(record: RunRecord):
    """To cells with a reason or a log, not to each of hundreds that passed; and what scrolls has a name."""
    stops = Stops()
    stops.feed(page(record))
    explained = [
        c for row in build_report(record).rows for c in row.cells if c.reason or c.log_tail
    ]
    assert len(stops.tips) == len(explained)
    assert stops.unnamed == []


def test_no_table_has_an_empty_heading():
    assert not re.search(r"<th[^>]*>\s*</th>", page(records.four_way()))


def test_hostile_text_stays_text():
    record = records.four_way()
    record.solutions[0].label = "<script>alert(1)</script>"
    record.solutions[
        1
    ].notes = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) ![x](http://example.com/x.png)"
    html = page(record)
    assert "<script>alert" not in html and "<img" not in html and 'href="javascript' not in html


def test_without_matplotlib_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A host that only measures keeps its report; the charts come where matplotlib is."""
    monkeypatch.setattr("harness.report.files.can_draw", lambda: False)
    save_record(records.four_way(), tmp_path)
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "matplotlib is not installed" in html and "<svg" not in html
    assert {p.name for p in tmp_path.iterdir()} == {"run.json", "comparison.md", "report.html"}
    assert "matplotlib" not in page(records.nothing_passed())


def test_a_full_comparison_is_small_and_quick(tmp_path: Path):
    """Nine solutions on nineteen workloads: `make report` takes under 10 s and writes under 3 MB."""
    save_record(records.nine_by_nineteen(), tmp_path)
    start = time.monotonic()
    done = harness("report", tmp_path)
    assert time.monotonic() - start < 10
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert len(list((tmp_path / "charts").iterdir())) == 4


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_what_is_committed_of_a_report_is_small(folder: Path):
    """Pages grow with their solutions: 4 on nineteen workloads take 433 KB, 14 take 1,054 KB."""
    files = [folder / "report.html", folder / "comparison.md", *(folder / "charts").glob("*")]
    solutions = len(load_record(folder).solutions)
    assert sum(path.stat().st_size for path in files) < 200_000 + 80_000 * solutions


def test_charts_of_an_earlier_rendering_do_not_stay(tmp_path: Path):
    save_record(records.four_way(), tmp_path)
    write_report(tmp_path)
    assert len(list((tmp_path / "charts").iterdir())) == 4
    save_record(records.cpu(), tmp_path)
    write_report(tmp_path)
    assert [p.name for p in (tmp_path / "charts").iterdir()] == ["matched-ratio.svg"]
