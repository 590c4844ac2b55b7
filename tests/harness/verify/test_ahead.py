"""The child of the next solution, started while another one is examined: idle, without its solution, and in nobody's way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.paths import PROJECT, Paths
from harness.plan import Request, make_plan
from harness.record import VerificationInfo
from harness.verify import judge as judge_module
from harness.verify import stage
from harness.verify.checks import Check
from harness.verify.exam import Exam
from harness.verify.judge import Judge
from harness.verify.session import Died, Session
from tests.harness import records
from tests.harness.folders import environment, write_solution
from tests.harness.processes import alive, running

HONEST = "from tests.cheats.honest import moe\n\ndef run(*inputs):\n    return moe(*inputs)\n"
LOADED = "import os\nfrom pathlib import Path\nPath({!r}).write_text(str(os.getpid()))\n"
DAEMON = "import subprocess\nsubprocess.Popen(['sleep', '617'], start_new_session=True)\n"
CHECKED = frozenset({"fresh_inputs", "threads"})


class Made:
    """A judge, its two solutions, and the file in which the second says in which process it was loaded."""

    def __init__(self, root: Path, first: str = ""):
        self.mark = root / "loaded"
        write_solution(root / "solutions", "first", first + HONEST)
        write_solution(root / "solutions", "second", LOADED.format(str(self.mark)) + HONEST)
        paths = Paths(solutions=root / "solutions", results=root / "results")
        plan = make_plan(Request(["first", "second"], backend="cpu", run="r"), paths)
        self.judge = Judge(plan, "short", 5, print, only=CHECKED)
        self.first, self.second = plan.runnable

    def waiting(self) -> Session:
        found = self.judge._waiting
        assert found is not None and found.solution == self.second.name
        return found.session


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest):
    found = Made(tmp_path, getattr(request, "param", ""))
    yield found
    found.judge.close()


def test_it_waits_without_its_solution_and_serves_when_its_turn_comes(made: Made) -> None:
    found = made.judge.verify(made.first, made.second)
    assert not found.failed, "a child that waits is no process of the one that is examined"
    session = made.waiting()
    assert not made.mark.exists(), "loaded before its turn"
    assert session.busy_share() < 0.1 and session._deadline == float("inf")
    assert not made.judge.verify(made.second).failed
    assert int(made.mark.read_text()) == session._process.pid
    assert not alive(session._process.pid) and made.judge._waiting is None


@pytest.mark.parametrize("made", [DAEMON], indirect=True)
def test_what_the_other_one_starts_is_found_and_ended_beside_it(made: Made) -> None:
    (failed,) = made.judge.verify(made.first, made.second).failed
    assert failed.name == "threads" and "1 processes" in failed.detail
    assert not running("sleep 617") and alive(made.waiting()._process.pid)
    assert not made.judge.verify(made.second).failed


@pytest.mark.parametrize("made", ["raise ImportError('no luck')\n"], indirect=True)
def test_it_serves_after_one_that_cannot_be_built(made: Made) -> None:
    assert made.judge.verify(made.first, made.second).unbuilt
    pid = made.waiting()._process.pid
    assert not made.judge.verify(made.second).failed
    assert int(made.mark.read_text()) == pid


@pytest.mark.parametrize("harm", ["late", "kill", "answer"])
def test_one_that_does_not_answer_is_replaced(
    made: Made, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """Whatever happened to it while it waited, neither solution is at fault; one that is late is not left at work."""

    def fail(session: Session) -> None:
        raise Died("no answer within 120 s")

    with monkeypatch.context() as patched:
        if harm == "late":
            patched.setattr(Session, "settle", fail)
        assert not made.judge.verify(made.first, made.second).failed
    session = made.waiting()
    if harm == "late":
        assert not alive(session._process.pid)
    elif harm == "kill":
        os.kill(session._process.pid, signal.SIGKILL)
    else:
        (session._folder / "answers").write_text('{"mark": "of an earlier question"}\n')
    assert not made.judge.verify(made.second).failed
    assert int(made.mark.read_text()) != session._process.pid
    assert not alive(session._process.pid) and not session._folder.exists()


def test_close_ends_it(made: Made) -> None:
    made.judge.verify(made.first, made.second)
    session = made.waiting()
    made.judge.close()
    assert not alive(session._process.pid) and not session._folder.exists()
    assert not list(made.judge.plan.scratch.glob("verify-*"))


def test_it_is_at_rest_before_what_goes_by_a_clock(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And waiting for it takes none of the time that the solution under examination has."""
    seen: dict[str, tuple[bool, float]] = {}
    settle = Session.settle

    def slow(session: Session) -> None:
        settle(session)
        time.sleep(1)

    def look(name: str, alone: bool) -> Check:
        def run(exam: Exam) -> str:
            waiting = made.judge._waiting
            assert waiting is not None
            if alone:
                assert waiting.session.busy_share() < 0.1, "it is still importing"
            seen[name] = (waiting.settled, exam.session._deadline)
            return ""

        return Check(name, run, in_short=True, alone=alone)

    checks = (look("values", False), look("clock", True), look("clock again", True))
    monkeypatch.setattr(judge_module, "CHECKS", checks)
    monkeypatch.setattr(made.judge, "only", frozenset())
    monkeypatch.setattr(Session, "settle", slow)
    assert not made.judge.verify(made.first, made.second).failed
    assert [settled for settled, _ in seen.values()] == [False, True, True]
    values, clock, again = (deadline for _, deadline in seen.values())
    assert clock >= values + 1 and again < clock + 0.5, "waited for once"


def test_checks_that_go_by_a_clock_are_marked() -> None:
    alone = {check.name for check in judge_module.CHECKS if check.alone}
    streams = {"current_stream", "side_stream", "two_streams"}
    assert (
        alone == {"memoised", "device_memory", "latency_floor", "timers_agree", "threads"} | streams
    )


def test_each_is_followed_by_the_next_without_a_verdict() -> None:
    names = ["a", "b", "c", "d"]
    plan = SimpleNamespace(runnable=[SimpleNamespace(name=f"{name}_moe") for name in names])
    info = VerificationInfo(form="short", seed=1, solutions=[records.verdict("b")])
    asked = []

    class Recorder:
        ceilings = compiled = None

        def verify(self, variant, following):
            asked.append((variant.name, following and following.name))
            return records.verdict(variant.name.removesuffix("_moe"))

        def close(self) -> None:
            asked.append("closed")

    recorder, wait = Recorder(), lambda: None
    for _ in stage.verify_all(recorder, plan, info, None, wait):
        pass
    assert recorder.compiled is wait, "it waits for the compilers that were started"
    assert asked == [("a_moe", "c_moe"), ("c_moe", "d_moe"), ("d_moe", None), "closed"]


NO_GPU = """
import torch
def touched(*args, **kwargs):
    raise AssertionError("the GPU was asked for")
torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = touched
torch._C._cuda_getDeviceCount = torch._C._cuda_init = touched
import harness.verify.child
assert not torch.cuda.is_initialized()
"""


def test_importing_asks_for_no_gpu() -> None:
    """Else a child that waits would hold memory that the other one is charged with."""
    done = subprocess.run(
        [sys.executable, "-c", NO_GPU], cwd=PROJECT, env=environment(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_an_interrupted_run(tmp_path: Path, sig: signal.Signals) -> None:
    write_solution(
        tmp_path / "solutions",
        "hangs",
        "import time\ndef run(*inputs):\n    time.sleep(600)\n" + "    return inputs[9]\n",
    )
    write_solution(tmp_path / "solutions", "next", HONEST)
    command = [sys.executable, "-m", "harness", "verify", "hangs", "next", "--backend", "cpu"]
    command += ["--run", "r", "--solutions-dir", str(tmp_path / "solutions")]
    command += ["--results-dir", str(tmp_path / "results")]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        words = f"moe-verify-{process.pid}-"
        deadline = time.monotonic() + 120
        while len(running(words)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        children = running(words)
        os.kill(process.pid, sig)
        process.wait(timeout=60)
    assert len(children) == 2
    deadline = time.monotonic() + 5  # the kernel ends what a killed one leaves
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, children))
    if sig is not signal.SIGKILL:  # what that leaves, the next run removes
        assert not list(Path("/dev/shm").glob(f"{words}*"))
