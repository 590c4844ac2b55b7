"""Charts: which exist, what they plot, and that the same record always gives the same bytes."""

import math
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from harness.paths import Paths
from harness.record import RunRecord, load_record
from harness.report.charts import DARK, MARKERS, PALETTE, PAPER, SVG, draw
from harness.report.series import Chart, charts_of
from harness.report.view import build_report
from tests.harness import records
from tests.harness.report.rounding import alike

COMMITTED = sorted(path.parent for path in Paths().results.glob("*/run.json"))
EVERY = [(name, maker()) for name, maker in records.ALL.items()]
EVERY += [(folder.name, load_record(folder)) for folder in COMMITTED]


def charts(record: RunRecord) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts_of(build_report(record))}


def test_a_chart_exists_where_there_is_something_to_plot():
    whole = ["speedup", "latency", "floor-ratio", "matched-ratio"]
    assert list(charts(records.four_way())) == whole
    assert list(charts(records.failures())) == whole
    without_ceilings = ["speedup", "latency", "matched-ratio"]
    assert list(charts(records.single_workload())) == without_ceilings
    assert list(charts(records.cpu())) == ["matched-ratio"]
    assert list(charts(records.nothing_passed())) == []
    assert list(charts(records.speeds(a={1: 2.0}))) == ["speedup"]


def test_points_are_the_cells_that_passed():
    """A failed cell has no speed, though its trace gave one; the solution that never ran has no line."""
    found = charts(records.failures())["speedup"]
    assert found.ticks == ("1", "57")
    assert [s.label for s in found.series] == ["wrong", "right"]
    assert [[(p.x, round(p.y, 6)) for p in s.points] for s in found.series] == [
        [(0, 120.0)],
        [(0, 30.0), (1, 40.0)],
    ]
    assert found.alt == (
        "Speedup over the reference on 2 workloads: wrong 120.00x and right 30.00x to 40.00x."
    )


def test_latency_is_in_microseconds_against_tokens_with_the_floor():
    found = charts(records.four_way())["latency"]
    assert found.ticks == () and found.log_y
    assert [(p.x, round(p.y, 3)) for p in found.series[2].points] == [
        (1, 300.0),
        (57, 500.0),
        (901, 800.0),
        (14107, 9000.0),
    ]
    assert found.guide and [p.x for p in found.guide.points] == [1, 57, 901, 14107]
    assert found.guide.points[3].y == pytest.approx(1090.8, abs=0.1)
    assert found.series[2].points[0].note == (
        "c on 11111111 (T=1): 40.00x, 300.0 us, 9.99x the floor, matched ratio 0.9876"
    )


def test_required_matched_ratio_and_floor_are_drawn_as_levels():
    found = charts(records.four_way())
    assert found["matched-ratio"].guide and found["matched-ratio"].guide.level == 0.85
    assert found["matched-ratio"].guide.label == "required: 0.85"
    assert found["floor-ratio"].guide and found["floor-ratio"].guide.level == 1.0


def test_values_that_cannot_be_drawn_are_left_out():
    record = records.four_way()
    record.cells[0].matched_ratio = math.nan
    found = charts(record)
    assert len(found["matched-ratio"].series[0].points) == 3
    assert len(found["speedup"].series[0].points) == 4


def test_workloads_of_one_size_are_told_apart():
    record = records.four_way()
    record.workloads[1].seq_len = record.workloads[0].seq_len
    assert charts(record)["speedup"].ticks[:2] == ("1 11111111", "1 57575757")


@pytest.mark.parametrize("record", [r for _, r in EVERY], ids=[n for n, _ in EVERY])
def test_every_chart_is_whole(record):
    for chart in charts(record).values():
        svg = draw(chart)
        root = ElementTree.fromstring(svg)
        for series in chart.series:
            group = root.find(f".//*[@id='{chart.name}-series-{series.index}']")
            marks = [] if group is None else list(group.iter(f"{{{SVG}}}use"))
            titles = [mark.findtext(f"{{{SVG}}}title") for mark in marks]
            assert titles == [point.note for point in series.points]
            where = [(mark.get("x"), mark.get("y")) for mark in marks]
            assert len(set(where)) == len(set((p.x, p.y) for p in series.points))
            inside(root, where)
        words = {element.text for element in root.iter(f"{{{SVG}}}text")}
        assert {chart.title, chart.x_label, chart.y_label} <= words
        assert {series.label for series in chart.series} <= words
        assert root.get("role") == "img" and chart.alt in (root.get("aria-label") or "")
        assert not re.search(r"\b(nan|inf|None)\b", svg)
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids)) and all(i.startswith(f"{chart.name}-") for i in ids)
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert used <= set(ids)


def inside(root: ElementTree.Element, where: list[tuple[str | None, str | None]]) -> None:
    width, height = (float(v) for v in (root.get("viewBox") or "").split()[2:])
    assert all(0 < float(x or 0) < width and 0 < float(y or 0) < height for x, y in where)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_charts_are_drawn_again(folder: Path):
    drawn = {f"{n}.svg": draw(c) for n, c in charts(load_record(folder)).items()}
    kept = {p.name: p.read_text(encoding="utf-8") for p in (folder / "charts").glob("*")}
    assert set(drawn) == set(kept)
    assert [name for name in kept if not alike(drawn[name], kept[name])] == []


def test_settings_of_the_user_change_nothing():
    chart = charts(records.four_way())["speedup"]
    plain = draw(chart)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        assert draw(chart) == plain


@pytest.mark.parametrize("length", [3, 13, 24, 60])
def test_long_labels_stay_inside(length: int):
    """By 6.5 points for a letter, which is more than these have in DejaVu Sans at 10 points."""
    labels = [f"{letter * (length - 1)}1" for letter in "abcdefg"]
    svg = draw(charts(records.speeds(**{label: {1: 2.0, 2: 3.0} for label in labels}))["speedup"])
    root = ElementTree.fromstring(svg)
    width = float((root.get("viewBox") or "").split()[2])
    ends = [
        float(element.get("x") or 0) + 6.5 * length
        for element in root.iter(f"{{{SVG}}}text")
        if element.text in labels
    ]
    assert len(ends) == 7 and max(ends) < width


def test_a_gap_breaks_the_line():
    """A workload that a solution failed is not bridged: the line has as many pieces as runs of marks."""
    record = records.speeds(a={1: 2.0, 2: 3.0, 4: 5.0}, b={1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0})
    svg = draw(charts(record)["speedup"])
    root = ElementTree.fromstring(svg)
    lines = [root.find(f".//*[@id='speedup-series-{i}']/{{{SVG}}}path") for i in range(2)]
    assert [(line.get("d") or "").count("M") for line in lines if line is not None] == [2, 1]


def test_dark_mode_replaces_ink_and_paper():
    svg = draw(charts(records.four_way())["speedup"])
    assert "@media (prefers-color-scheme:dark)" in svg
    for ours in ("fill: #24292f", "stroke: #24292f", "fill: #ffffff", "stroke: #d0d7de"):
        assert f'[style*="{ours}"]' in ElementTree.fromstring(svg).findtext(f"{{{SVG}}}style", "")
        assert svg.count(ours) > 1, f"no element has {ours}"


def test_every_solution_of_a_large_comparison_looks_different():
    looks = {(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i in range(77)}
    assert len(looks) == 77


def test_where_colours_begin_again_lines_are_dashed():
    """Marks are small and lie apart: the lines themselves must tell solutions of one colour apart."""
    labels = [f"s{i}" for i in range(15)]
    record = records.speeds(**{one: {1: i + 1.0, 2: i + 2.0} for i, one in enumerate(labels)})
    root = ElementTree.fromstring(draw(charts(record)["speedup"]))
    looks = []
    for i in range(15):
        line = root.find(f".//*[@id='speedup-series-{i}']/{{{SVG}}}path")
        style = "" if line is None else line.get("style", "")
        looks.append(tuple(re.findall(r"stroke: (#\w+)|stroke-dasharray: ([^;]+)", style)))
    assert len(set(looks)) == 15


def test_colours_stand_out_from_both_papers():
    """WCAG 2.1, 1.4.11: a contrast of 3 for what must be told from its background."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for paper in (PAPER, DARK[PAPER]):
        for colour in PALETTE:
            light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, paper)


@pytest.mark.parametrize("label", ["$\\frac$", "$x$", "_hidden", "a\x1b[31m\x00b", "漢字", "<b>&"])
def test_a_label_is_never_more_than_text(label: str):
    """No formula, no marker that hides it from the legend, no byte that breaks the file: a traceback came of each."""
    record = records.four_way()
    record.solutions[0].label = label
    for chart in charts(record).values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            root = ElementTree.fromstring(draw(chart))
        words = [element.text for element in root.iter(f"{{{SVG}}}text")]
        assert "".join(c if c.isprintable() else " " for c in label) in words
        assert {"b", "c", "d"} <= set(words)


def test_a_workload_without_tokens_draws_no_warning():
    """It has no place on a logarithmic axis."""
    record = records.four_way()
    record.workloads[0] = record.workloads[0].model_copy(update={"seq_len": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chart in charts(record).values():
            draw(chart)
    assert [p.x for p in charts(record)["latency"].series[0].points] == [57, 901, 14107]


def test_what_a_chart_cannot_show_is_said_in_it():
    found = charts(records.failures())["latency"]
    assert found.notes == (
        "Latency and floor depend on routing and offset too, not on T alone.",
        "No point: broken, absent.",
    )
    words = {e.text for e in ElementTree.fromstring(draw(found)).iter(f"{{{SVG}}}text")}
    assert {found.x_label, *found.notes} <= words
    assert charts(records.four_way())["speedup"].notes == ()
