"""The files of a report, written beside the record that they are functions of."""

from pathlib import Path

from harness.atomic import write_atomically
from harness.record import load_record
from harness.report.charts import can_draw, draw
from harness.report.html import render_html
from harness.report.markdown import CHARTS_FOLDER, render_markdown
from harness.report.series import charts_of
from harness.report.view import build_report

MARKDOWN_NAME = "comparison.md"
HTML_NAME = "report.html"


def write_report(folder: Path) -> Path:
    """Render `folder`/run.json to comparison.md, report.html and charts/*.svg; returns the path of comparison.md.

    Where matplotlib is not installed there are no charts, and the page says so: a run that was measured
    keeps its report.

    Raises:
        HarnessError: no record there, or it cannot be read.
    """
    record = load_record(folder)
    charts = charts_of(build_report(record)) if can_draw() else ()
    drawn = {chart.name: draw(chart) for chart in charts}
    for name, svg in drawn.items():
        write_atomically(folder / CHARTS_FOLDER / f"{name}.svg", svg)
    if can_draw():
        for path in (folder / CHARTS_FOLDER).glob("*.svg"):
            if path.stem not in drawn:  # a chart that an earlier rendering had and this one lacks
                path.unlink()
    write_atomically(folder / HTML_NAME, render_html(record, drawn))
    path = folder / MARKDOWN_NAME
    write_atomically(path, render_markdown(record))
    return path
