"""What a shell offers after Tab: solutions, runs, profiles, suites, tables. Never an error: where nothing can be read, nothing is offered."""

from pathlib import Path

import typer

from harness.errors import HarnessError
from harness.manifest import survey
from harness.paths import Paths
from harness.record import recorded
from harness.report.tables import TABLES
from harness.terminal import paths_of
from harness.workloads import SUITES

Offers = list[tuple[str, str]]
"""Words, each with what the shell may say about it."""


def solution_names(context: typer.Context, incomplete: str) -> Offers:
    """Labels, each with what is special about the solution."""
    try:
        variants = survey(_paths(context).solutions).variants
    except HarnessError:
        return []
    return [(v.label, v.manifest.summary) for v in variants if v.label.startswith(incomplete)]


def runs(context: typer.Context, incomplete: str) -> Offers:
    """Run folders, under the path that was begun or by name."""
    results = _paths(context).results
    prefix = "results/" if incomplete.startswith("results/") else ""
    words = [f"{prefix}{folder.name}" for folder in reversed(recorded(results))]
    return [(word, "") for word in words if word.startswith(incomplete)]


def profiles(context: typer.Context, incomplete: str) -> Offers:
    """Files of configs/ without their ending."""
    names = sorted(path.stem for path in _paths(context).configs.glob("*.yaml"))
    return [(name, "") for name in names if name.startswith(incomplete)]


def suites(incomplete: str) -> Offers:
    """Suites of the synthetic dataset."""
    return [(name, "") for name in SUITES if name.startswith(incomplete)]


def report_tables(incomplete: str) -> Offers:
    """Tables of a report."""
    return [(name, "") for name in TABLES if name.startswith(incomplete)]


def _paths(context: typer.Context) -> Paths:
    named = {
        key: Path(value)
        for key in ("solutions", "results", "configs")
        if (value := context.params.get(f"{key}_dir"))
    }
    return paths_of(**named)
