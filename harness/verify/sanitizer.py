"""compute-sanitizer around the child, on small shapes."""

import re
import shutil
from pathlib import Path

from harness.cells import tail
from harness.record import CheckResult
from harness.verify.exam import Exam, Failed
from harness.verify.session import Died, Refused

PLACES = ("/usr/local/cuda/bin/compute-sanitizer",)
EXIT_CODE = 99  # of the wrapped process when the tool has something to report
TOKENS = (1, 7, 17)

_SUMMARY = re.compile(r"(ERROR|RACECHECK) SUMMARY: (.*)")


def find() -> str | None:
    """Path of compute-sanitizer, or None where it is not installed."""
    found = shutil.which("compute-sanitizer")
    return found or next((place for place in PLACES if Path(place).exists()), None)


def command(tool: str, program: str) -> list[str]:
    """The wrapper's command line."""
    return [
        program,
        "--tool",
        tool,
        "--error-exitcode",
        str(EXIT_CODE),
        "--target-processes",
        "all",
        # Calls that fail by design, as when libraries probe what there is, are no memory errors.
        *(("--report-api-errors", "no") if tool == "memcheck" else ()),
    ]


def check_name(tool: str) -> str:
    """What the check with this tool is called."""
    return f"sanitizer_{tool}"


def run(tool: str, exam: Exam) -> CheckResult:
    """A few small calls under the tool; it reports when the child ends."""
    name, session = check_name(tool), exam.session
    try:
        for tokens in TOKENS:
            exam.fresh(exam.case(tokens, "sanitizer", routing="half_local"), f"under {tool}")
    except (Died, Refused, Failed) as error:
        fault = str(error)
    else:
        fault = ""
    code = session.returncode_soon(120.0)
    summary = verdict(session.tail())
    if code == 0 and not fault:
        return CheckResult(name=name, outcome="passed", detail=summary or "no errors")
    found = cause(session.tail(), fault) or summary or f"{tool} exited with {code}"
    log = tail(session.tail()) or None
    return CheckResult(name=name, outcome="failed", detail=found, log_tail=log)


def environment(tool: str) -> dict[str, str]:
    """Variables for the child. Memory that torch hands out of larger blocks has no bounds that memcheck could see."""
    return {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool == "memcheck" else {}


def cause(log: str, fault: str) -> str:
    """What the tool found, where a call failed or the process ended as well: it may end the process's use of the GPU."""
    found = verdict(log)
    return fault if found is None or found.startswith("0 ") else found


def verdict(log: str) -> str | None:
    """The tool's own summary in its output, or None."""
    found = _SUMMARY.findall(log)
    return found[-1][1].strip() if found else None
