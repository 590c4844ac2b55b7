"""Reports: functions of a run record alone, so that any record can be rendered again."""

from harness.report.files import write_report
from harness.report.html import render_html
from harness.report.markdown import render_markdown

__all__ = ["render_html", "render_markdown", "write_report"]
