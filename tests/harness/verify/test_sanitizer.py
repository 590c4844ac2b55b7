"""compute-sanitizer is found, told what to do, and believed; a stand-in with its command line takes its place here."""

import os
import re
from pathlib import Path

import pytest

from harness.paths import PROJECT, Paths
from harness.plan import Plan, Request, make_plan
from harness.verify import sanitizer
from harness.verify.judge import Judge

CHEATS = Path(__file__).parents[2] / "cheats"

STAND_IN = """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --tool ]] && tool=$2; [[ "$1" == --error-exitcode ]] && bad=$2; shift 2; done
"$@" || exit
seq -f "built in $HERE, line %g" 100
echo "========= ERROR SUMMARY: ERRORS errors ($tool)"
[[ ERRORS == 0 ]] || exit $bad
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    request = Request(["control_returns"], backend="cpu", run="r", workloads=["one-token"])
    return make_plan(request, Paths(solutions=CHEATS, results=tmp_path))


@pytest.mark.parametrize(("errors", "outcome"), [(0, "passed"), (3, "failed")])
def test_its_exit_code_and_summary_are_the_verdict(
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    errors: int,
    outcome: str,
) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(STAND_IN.replace("ERRORS", str(errors)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("HERE", str(PROJECT))
    found = sanitizer.find()
    assert found == str(program)
    result = Judge(plan, "full", 7, print).sanitize("racecheck", found, plan.variants[0])
    assert (result.name, result.outcome) == ("sanitizer_racecheck", outcome), result
    summary, log = f"{errors} errors (racecheck)", plan.folder / "control_returns-racecheck.log"
    if errors:
        assert result.detail == f"{summary}; see control_returns-racecheck.log"
        assert summary in log.read_text() and str(PROJECT) not in log.read_text()
        lines = (result.log_tail or "").splitlines()  # of the record, which travels
        assert lines[:1] == ["built in ., line 62"] and summary in lines[-1], lines
    else:
        assert result.detail == summary and not log.exists()


FINDS = """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --error-exitcode ]] && bad=$2; shift 2; done
echo "caching off: $PYTORCH_NO_CUDA_MEMORY_CACHING"
timeout SECONDS "$@"
echo "========= ERROR SUMMARY: ERRORS"
exit $bad
"""


@pytest.mark.parametrize(
    ("seconds", "errors", "expected"),
    [
        ("8", "1 error", "^1 error;"),
        ("0.2", "1 error", "^1 error;"),
        ("0.2", "0 errors", "exited with 99"),
    ],
)
def test_what_the_tool_found_is_said_where_it_ended_the_process(
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: str,
    errors: str,
    expected: str,
) -> None:
    """memcheck ends a process's use of the GPU with the first error, so a call fails as well, or loading (0.2 s). Where it
    found nothing, the process's own end is the cause."""
    program = tmp_path / "compute-sanitizer"
    program.write_text(FINDS.replace("SECONDS", seconds).replace("ERRORS", errors))
    program.chmod(0o755)
    monkeypatch.setattr(sanitizer, "TOKENS", (1,) * 10_000)
    result = Judge(plan, "full", 7, print).sanitize("memcheck", str(program), plan.variants[0])
    assert result.outcome == "failed" and re.search(expected, result.detail or ""), result
    assert "caching off: 1" in (result.log_tail or "")


def test_memcheck_cannot_judge_cuda_graphs(plan: Plan) -> None:
    (variant,) = plan.variants
    manifest = variant.manifest.model_copy(update={"state": "cuda_graph"})
    graph = variant.model_copy(update={"manifest": manifest})
    result = Judge(plan, "full", 7, print).sanitize("memcheck", "/bin/false", graph)
    assert result.outcome == "not_applicable"
