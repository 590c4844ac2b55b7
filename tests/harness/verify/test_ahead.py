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
from harness.record import Verification, VerificationInfo
from harness.verify import ahead, stage
from harness.verify import judge as judge_module
from harness.verify.checks import Check
from harness.verify.exam import Exam
from harness.verify.judge import Judge
from harness.verify.session import Died, Session
from tests.harness import records
from tests.harness.folders import environment, write_solution
from tests.harness.processes import alive, running

HONEST = "from tests.cheats.honest import moe\n\ndef run(*inputs):\n    return moe(*inputs)\n"
LOADED = "import os\nfrom pathlib import Path\nPath({!r}).write_text(str(os.getpid()))\n"
WORDS = f"sleep {10_000 + os.getpid()}"  # other tests may run beside these
DAEMON = f"import subprocess\nsubprocess.Popen({WORDS.split()}, start_new_session=True)\n"
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
        return self.judge._ahead.waiting[self.second.name].session


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest):
    found = Made(tmp_path, getattr(request, "param", ""))
    yield found
    found.judge.close()


def test_it_waits_without_its_solution_and_serves_when_its_turn_comes(made: Made) -> None:
    found = made.judge.verify(made.first, [made.second])
    assert not found.failed, "a child that waits is no process of the one that is examined"
    session = made.waiting()
    assert not made.mark.exists(), "loaded before its turn"
    assert session.busy_share() < 0.1 and session._deadline == float("inf")
    assert not made.judge.verify(made.second).failed
    assert int(made.mark.read_text()) == session._process.pid
    assert not alive(session._process.pid) and not made.judge._ahead.waiting


def test_the_first_is_expected_before_anything_is_verified(made: Made) -> None:
    """As it is while the GPU's ceilings are measured."""
    made.judge.expect(made.second)
    pid = made.waiting()._process.pid
    assert not made.mark.exists(), "loaded before its turn"
    assert not made.judge.verify(made.second).failed and int(made.mark.read_text()) == pid


@pytest.mark.parametrize("made", [DAEMON], indirect=True, ids=["daemon"])
def test_what_the_other_one_starts_is_found_and_ended_beside_it(made: Made) -> None:
    (failed,) = made.judge.verify(made.first, [made.second]).failed
    assert failed.name == "threads" and "1 processes" in failed.detail
    assert not running(WORDS) and alive(made.waiting()._process.pid)
    assert not made.judge.verify(made.second).failed


@pytest.mark.parametrize("made", ["raise ImportError('no luck')\n"], indirect=True)
def test_it_serves_after_one_that_cannot_be_built(made: Made) -> None:
    assert made.judge.verify(made.first, [made.second]).unbuilt
    pid = made.waiting()._process.pid
    assert not made.judge.verify(made.second).failed
    assert int(made.mark.read_text()) == pid


@pytest.mark.parametrize("harm", ["late", "kill", "answer"])
def test_one_that_does_not_answer_is_replaced(
    made: Made, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """Whatever happened to it while it waited, neither solution is at fault; one that is late is not left at work."""

    def fail(session: Session, timeout_s: float = 60) -> None:
        raise Died("no answer within 120 s")

    with monkeypatch.context() as patched:
        if harm == "late":
            patched.setattr(Session, "settle", fail)
        assert not made.judge.verify(made.first, [made.second]).failed
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
    made.judge.verify(made.first, [made.second])
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

    def slow(session: Session, timeout_s: float = 60) -> None:
        settle(session, timeout_s)
        time.sleep(1)

    def look(name: str, alone: bool) -> Check:
        def run(exam: Exam) -> str:
            (waiting,) = made.judge._ahead.waiting.values()
            if alone:
                assert waiting.session.busy_share() < 0.1, "it is still importing"
            seen[name] = (waiting.settled, exam.session._deadline)
            return ""

        return Check(name, run, in_short=True, alone=alone)

    checks = (look("values", False), look("clock", True), look("clock again", True))
    monkeypatch.setattr(judge_module, "CHECKS", checks)
    monkeypatch.setattr(made.judge, "only", frozenset())
    monkeypatch.setattr(Session, "settle", slow)
    assert not made.judge.verify(made.first, [made.second]).failed
    assert [settled for settled, _ in seen.values()] == [False, True, True]
    values, clock, again = (deadline for _, deadline in seen.values())
    assert clock >= values + 1 and again < clock + 0.5, "waited for once"


LOADED_BY = """
import os, signal, subprocess, time
with open({!r}, "a+") as file:
    file.seek(0)
    again = bool(file.read())
    print(os.getpid(), os.environ.get("MAX_JOBS"), file=file)
"""


class Building:
    """A judge and solutions of which some count as compiled anew, two of them at a time; each says in a file, by a line, which process
    has loaded it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self._patch = root, monkeypatch

    def judge_for(self, **anew: str) -> None:
        """`anew`: code of those that are compiled anew, before what all do; `again` says whether it was loaded before."""
        root, names = self.root, ["first", "second", *anew]
        for name in names:
            code = LOADED_BY.format(str(root / name)) + anew.get(name, "") + HONEST
            write_solution(root / "solutions", name, code)
        paths = Paths(solutions=root / "solutions", results=root / "results")
        plan = make_plan(Request(names, backend="cpu", run="r"), paths)
        compiled = property(lambda variant: variant.folder.name in anew)
        self._patch.setattr(type(plan.runnable[0]), "is_compiled_anew", compiled)
        self._patch.setattr(
            ahead, "builds_at_once", lambda cores: 3
        )  # one share is the examined one's
        self.judge = Judge(plan, "short", 5, print, only=CHECKED)
        self.variants = plan.runnable

    def verify(self, index: int) -> Verification:
        return self.judge.verify(self.variants[index], self.variants[index + 1 :])

    def waiting(self) -> dict[str, int]:
        """Process by folder of who waits."""
        folders = {variant.name: variant.folder.name for variant in self.variants}
        found = self.judge._ahead.waiting.items()
        return {folders[name]: waiting.session._process.pid for name, waiting in found}

    def loaded(self, folder: str) -> list[int]:
        """In which processes it has been loaded."""
        return [int(line.split()[0]) for line in self._lines(folder)]

    def jobs(self, folder: str) -> list[str]:
        """MAX_JOBS in these processes."""
        return [line.split()[1] for line in self._lines(folder)]

    def _lines(self, folder: str) -> list[str]:
        path = self.root / folder
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, folder: str) -> None:
        """Until it is being loaded."""
        deadline = time.monotonic() + 60
        while not self.loaded(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.loaded(folder)


@pytest.fixture
def building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = Building(tmp_path, monkeypatch)
    yield found
    found.judge.close()


def test_who_is_expected_builds_nothing_before_its_turn(building: Building) -> None:
    """Compilers would be beside what is timed then; in its turn it has all processors."""
    building.judge_for(a="")
    (variant,) = (v for v in building.variants if v.is_compiled_anew)
    building.judge.expect(variant)
    session = building.judge._ahead.waiting[variant.name].session
    session.settle()
    assert not building.loaded("a")
    assert not building.judge.verify(variant).failed
    assert building.loaded("a") == [session._process.pid] and building.jobs("a") == ["None"]


def test_what_is_compiled_anew_is_built_side_by_side_and_once(building: Building) -> None:
    """Before anything goes by a clock, by those of the next few that need it and by no other."""
    slow = "time.sleep(1)\n"
    building.judge_for(a=slow, b=slow, c=slow)
    assert not building.verify(0).failed, "they are no processes of the one that is examined"
    waiting = building.waiting()
    assert set(waiting) == {"second", "a", "b"} and not building.loaded("second")
    assert building.loaded("a") == [waiting["a"]] and building.loaded("b") == [waiting["b"]]
    assert building.jobs("a") == ["2"], "compilers beside others are few"
    assert not building.verify(1).failed and building.waiting() == {k: waiting[k] for k in "ab"}
    assert building.jobs("second") == ["None"], "what is built in its turn has all processors"
    assert not building.verify(2).failed and set(building.waiting()) == {"b", "c"}
    assert not building.verify(3).failed
    assert building.loaded("a") == [waiting["a"]] and building.loaded("b") == [waiting["b"]]
    last = building.waiting()["c"]
    assert alive(last)
    building.judge.close()
    assert not building.judge._ahead.waiting and not alive(last)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("raise ImportError('no luck')\n", "no luck"),
        ("os._exit(3)\n", "exited with 3"),
        ("import sys\nopen(sys.argv[1] + '/answers', 'w').write('[]\\n')\n", "is no answer"),
        (
            "import sys\nopen(sys.argv[1] + '/answers', 'w').write('{\"cannot_write\": \"x\"}\\n')\n",
            "is no answer",
        ),
    ],
)
def test_one_that_cannot_be_built_ahead_fails_in_its_turn(
    building: Building, broken: str, why: str
) -> None:
    building.judge_for(broken=broken, a="")
    assert not building.verify(0).failed and not building.verify(1).failed
    waiting = building.waiting()
    assert building.loaded("broken") == [waiting["broken"]] and not alive(waiting["broken"])
    found = building.verify(2)
    assert found.unbuilt and why in found.failed[0].detail
    assert len(building.loaded("broken")) == 2, "in a process of its own as well"
    assert not building.verify(3).failed and building.loaded("a") == [waiting["a"]]


@pytest.mark.parametrize("death", ["", "os.kill(os.getpid(), signal.SIGKILL)\n"])
def test_what_one_that_is_built_ahead_leaves_is_charged_to_it_alone(
    building: Building, death: str
) -> None:
    """A daemon that it starts while another is examined, also where it dies then: it is ended before anything goes by processes, and
    found in its turn."""
    building.judge_for(a=DAEMON + death)
    assert not building.verify(0).failed and not running(WORDS)
    assert not building.verify(1).failed
    failed = building.verify(2).failed[0]
    if death:
        assert failed.name == "build" and "signal 9" in failed.detail
    else:
        assert failed.name == "threads" and "1 processes" in failed.detail
    assert len(building.loaded("a")) == 2 and not running(WORDS)


def test_one_that_dies_after_it_was_built_leaves_nothing_to_others(
    building: Building, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ends between two checks that go by processes, and lets go of one."""
    building.judge_for(a="", b="")

    def kills(exam: Exam) -> str:
        dying = building.judge._ahead.waiting[building.variants[2].name].session
        orphan = subprocess.Popen(WORDS.split(), start_new_session=True)
        os.kill(dying._process.pid, signal.SIGKILL)
        while dying.is_alive():
            time.sleep(0.01)
        assert exam.session.child_processes() == 1, "as if it had been below the one that died"
        orphan.returncode = 0  # reaped by whoever ends it
        return ""

    def looks(exam: Exam) -> str:
        assert exam.session.child_processes() == 0
        return ""

    monkeypatch.setattr(
        judge_module,
        "CHECKS",
        (Check("kills", kills, True, alone=True), Check("looks", looks, True, alone=True)),
    )
    monkeypatch.setattr(building.judge, "only", frozenset())
    assert not building.verify(0).failed and not running(WORDS)


def test_one_that_is_built_ahead_for_too_long_is_killed_and_built_in_its_turn(
    building: Building, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the compilers that it has started, and at no expense of who is examined."""
    building.judge_for(a=f"if not again:\n    {DAEMON.splitlines()[-1]}\n    time.sleep(600)\n")
    settle = Session.settle

    def slow(session: Session, timeout_s: float = 60) -> None:
        if session._building_until is not None:
            building.wait_for("a")
            session._building_until = time.monotonic() + 1
        settle(session, timeout_s)

    monkeypatch.setattr(Session, "settle", slow)
    assert not building.verify(0).failed and building.judge._waited_s >= 1
    late = building.waiting()["a"]
    assert building.loaded("a") == [late] and not alive(late) and not running(WORDS)
    assert not building.verify(2).failed and len(building.loaded("a")) == 2


def test_close_ends_those_that_are_being_built(
    building: Building, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their compilers, at once, whatever they do about signals."""
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + DAEMON + "time.sleep(600)\n"
    building.judge_for(a=stubborn, b=stubborn)
    monkeypatch.setattr(
        building.judge, "only", frozenset({"fresh_inputs"})
    )  # nothing waits for them
    assert not building.verify(0).failed
    waiting = building.waiting()
    for folder in "ab":
        building.wait_for(folder)
    start = time.monotonic()
    building.judge.close()
    assert time.monotonic() - start < 9, "each that ignores SIGTERM is else waited for 5 s"
    assert not any(map(alive, waiting.values())) and not running(WORDS)


def test_checks_that_go_by_a_clock_are_marked() -> None:
    alone = {check.name for check in judge_module.CHECKS if check.alone}
    streams = {"current_stream", "side_stream", "two_streams"}
    assert (
        alone == {"memoised", "device_memory", "latency_floor", "timers_agree", "threads"} | streams
    )


def test_each_is_followed_by_those_without_a_verdict() -> None:
    names = ["a", "b", "c", "d"]
    plan = SimpleNamespace(runnable=[SimpleNamespace(name=f"{name}_moe") for name in names])
    info = VerificationInfo(form="short", seed=1, solutions=[records.verdict("b")])
    asked = []

    class Recorder:
        ceilings = compiled = None

        def verify(self, variant, following):
            asked.append((variant.name, [other.name for other in following]))
            return records.verdict(variant.name.removesuffix("_moe"))

        def close(self) -> None:
            asked.append("closed")

    recorder, wait = Recorder(), lambda: None
    for _ in stage.verify_all(recorder, plan, info, None, wait):
        pass
    assert recorder.compiled is wait, "it waits for the compilers that were started"
    assert asked == [
        ("a_moe", ["c_moe", "d_moe"]),
        ("c_moe", ["d_moe"]),
        ("d_moe", []),
        "closed",
    ]


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
