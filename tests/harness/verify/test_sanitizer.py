"""compute-sanitizer is found, told what to do, and believed; a stand-in with its command line takes its place here."""

import os
from pathlib import Path

import pytest

from harness.paths import Paths
from harness.plan import Plan, Request, make_plan
from harness.verify import sanitizer
from harness.verify.judge import Judge

CHEATS = Path(__file__).parents[2] / "cheats"

STAND_IN = """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --tool ]] && tool=$2; [[ "$1" == --error-exitcode ]] && bad=$2; shift 2; done
"$@" || exit
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
    found = sanitizer.find()
    assert found == str(program)
    result = Judge(plan, "full", 7, print).sanitize("racecheck", found, plan.variants[0])
    assert (result.name, result.outcome) == ("sanitizer_racecheck", outcome), result
    assert result.detail == f"{errors} errors (racecheck)"
