"""Reports: functions of a run record alone, so that any record can be rendered again."""

from harness.report.markdown import render_markdown, write_report

__all__ = ["render_markdown", "write_report"]
