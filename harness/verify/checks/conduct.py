"""What a solution does besides computing: to its outputs' memory, its process, and the functions that judge it."""

from harness.verify.exam import Exam, Failed
from harness.verify.session import BUSY_SHARE


def contract(exam: Exam) -> str:
    """Type, shape, dtype, device, storage and aliasing of every output so far, and an output held over another call."""
    tokens = exam.effort.tokens
    exam.inputs("held", exam.case(tokens, "held", routing="half_local"))
    file = exam.session.file()
    exam.note(exam.session.ask("call", slot="held", file=file, twice=True), "held")
    exam.require(exam.take(f"{file}-again", "held"), "held", "second output")
    exam.require(exam.take(file, "held"), "held", "first output, read after a second call")
    exam.inputs("later", exam.case(tokens, "later", routing="half_local"))
    exam.right("later", "output of other inputs")
    found = [
        violation for violation in dict.fromkeys(exam.violations) if "threads" not in violation
    ]
    if found:
        raise Failed("; ".join(found[:3]))
    return "type, shape, dtype, device, layout, own memory"


def threads(exam: Exam) -> str:
    """No Python thread and no process is left, and nothing runs while nothing was asked for."""
    exam.inputs("threads", exam.case(exam.effort.tokens, "threads"))
    exam.call("threads")
    found = [violation for violation in exam.violations if "threads" in violation]
    facts = exam.session.ask("facts")
    if facts["threads"] > 0:
        found.append(f"{facts['threads']} new threads")
    if processes := exam.session.child_processes():
        found.append(f"{processes} processes that it started are alive")
    if (busy := exam.session.busy_share()) > BUSY_SHARE:
        found.append(f"it uses {busy:.1f} processors while it has nothing to do")
    if found:
        raise Failed("; ".join(dict.fromkeys(found)))
    return "no new thread, no process left, idle when idle"


def patched(exam: Exam) -> str:
    """Functions of torch, flashinfer-bench, the clock and this harness are what they were before the solution was loaded."""
    changed = exam.session.ask("facts")["changed"]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise Failed(f"changed: {', '.join(changed[:3])}{more}")
    return "as before loading"
