"""The checks that need a GPU, on the CPU: child and parent in one process, torch's streams, events and profiler stood in for.

What a GPU does cannot show here; that each line runs, and that what it is told is judged, can.
"""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.autograd.profiler
from flashinfer_bench.bench import timing

from harness.dataset import stage
from harness.paths import Paths
from harness.plan import Request, make_plan
from harness.verify import gpu_commands
from harness.verify.cases import Case, Seeds, Weights, to_json
from harness.verify.checks import CHECKS, device, speed
from harness.verify.child import Child
from harness.verify.compare import Tolerance
from harness.verify.effort import effort_for
from harness.verify.exam import Exam, Failed, References
from harness.verify.inputs import WEIGHT_NAMES, Sizes
from harness.verify.session import Fault
from tests.cheats.suite import CHEATS

OF_THE_GPU = [check for check in CHECKS if check.needs_gpu]
BUSY_HOST = 1e3
"""Agreement where a test is about another timer: those of the host differ by more than the real one on a busy machine."""


class FakeEvent:
    """Goes by the host's clock."""

    def __init__(self, enable_timing: bool = False):
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1e3 * (end.at - self.at)


class FakeProfile:
    """Has seen one kernel of `busy_us`; `absent`: cannot be started."""

    busy_us = 10.0
    absent = False

    def __init__(self, use_cpu: bool, use_device: str, use_kineto: bool):
        assert (use_cpu, use_device, use_kineto) == (False, "cuda", True)

    def __enter__(self) -> "FakeProfile":
        if self.absent:
            raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def function_events(self) -> list[SimpleNamespace]:
        span = SimpleNamespace(start=0.0, end=self.busy_us)
        return [SimpleNamespace(device_type=SimpleNamespace(name="CUDA"), time_range=span)]


class Local:
    """A session whose child is an object of this process; all it is told and answers passes through JSON."""

    def __init__(self, child: Child):
        self.child = child
        self._files = 0

    def ask(self, op: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        try:
            answer = self.child.do(json.loads(json.dumps({"op": op, **arguments})))
        except RuntimeError as error:
            raise Fault(str(error)) from None
        return json.loads(json.dumps(answer))

    def file(self) -> str:
        self._files += 1
        return f"output-{self._files}"

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        path = self.child.folder / name
        data = bytearray(path.read_bytes())
        path.unlink()
        return torch.frombuffer(data, dtype=dtype)

    def inputs(self, slot: str, case: Case, weights: str, in_place: bool) -> None:
        self.ask("inputs", slot=slot, case=to_json(case), weights=weights, in_place=in_place)

    def weights(self, name: str, spec: Weights, in_place: bool) -> None:
        self.ask("weights", name=name, spec=to_json(spec), in_place=in_place)


@pytest.fixture
def exam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exam:
    """An honest solution under examination, on the small definition."""
    cuda: dict[str, Callable[..., object]] = {
        "Event": FakeEvent,
        "synchronize": lambda device=None: None,
        "current_stream": lambda: None,
        "Stream": object,
        "stream": lambda stream: nullcontext(),
        "_sleep": lambda cycles: None,
        "mem_get_info": lambda: (1 << 30, 2 << 30),
        "memory_allocated": lambda: 0,
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.autograd.profiler, "profile", FakeProfile)
    monkeypatch.setattr(gpu_commands, "FLUSH_BYTES", 1 << 10)
    monkeypatch.setattr(timing, "_get_empty_cache_for_benchmark", lambda device: torch.empty(8))
    monkeypatch.setattr(device, "MEMORY_CALLS", 20)
    monkeypatch.setattr(speed, "TIMED_CALLS", 5)
    monkeypatch.setattr(speed, "CLOCKED_CALLS", (5, 20))
    torch.set_num_threads(1)

    paths = Paths(solutions=CHEATS, results=tmp_path)
    plan = make_plan(Request(["control_returns"], backend="cpu", run="r"), paths)
    root = stage(plan.dataset, plan.variants, [plan.workloads[0].id], tmp_path / "root")
    (tmp_path / "child" / "outputs").mkdir(parents=True)
    name = plan.variants[0].name
    child = Child(tmp_path / "child", root, plan.definition.name, name, "cpu")
    p = plan.profile
    made = Exam(
        Local(child),  # type: ignore[arg-type]
        References(Sizes.of(plan.definition.const_axes), "cpu"),
        Tolerance(p.rtol, p.atol, p.required_matched_ratio),
        effort_for("full", False, "triton"),  # two tokens
        Seeds(5),
        floor_us={1: 1e-3, 2: 1e-3},
    )
    made.session.ask("build")
    made.set_weights(Weights(made.seeds.of("weights")))
    return made


def weight_sums(exam: Exam) -> dict[str, int]:
    return exam.session.ask("checksums", slot="timed", names=WEIGHT_NAMES, seed=1)["sums"]


@pytest.mark.parametrize("check", OF_THE_GPU, ids=lambda c: c.name)
def test_an_honest_solution_passes(exam: Exam, check: Any) -> None:
    assert check.run(exam)


def test_timing_leaves_the_weights_alone(exam: Exam) -> None:
    """What comes after it counts on them."""
    exam.inputs("timed", exam.case(2, "timed", routing="half_local"))
    before = weight_sums(exam)
    speed.timers_agree(exam)
    assert weight_sums(exam) == before


def test_events_that_see_a_hundredth(exam: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = FakeEvent.elapsed_time
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda start, end: honest(start, end) / 100)
    with pytest.raises(Failed, match="the parent's clock counts"):
        speed.timers_agree(exam)


def test_many_calls_that_take_less_time_than_few(
    exam: Exam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time at all would agree with any events."""
    monkeypatch.setattr(speed, "AGREEMENT", BUSY_HOST)
    monkeypatch.setattr(speed, "_parent_clock", lambda exam, expected_us: -1.0)
    with pytest.raises(Failed, match="few calls took longer than many"):
        speed.timers_agree(exam)


@pytest.mark.parametrize(("budget", "calls"), [(0.0, [0, 5]), (1e9, [2, 22])])
def test_how_often_the_parent_clocks_a_call(
    exam: Exam, monkeypatch: pytest.MonkeyPatch, budget: float, calls: list[int]
) -> None:
    """A slow solution as often as the least says, a fast one as the most."""
    monkeypatch.setattr(speed, "CLOCKED_US", budget)
    monkeypatch.setattr(speed, "CLOCKED_CALLS", (5, 20))
    asked = []
    monkeypatch.setattr(
        exam.session,
        "ask",
        lambda op, slot, calls: asked.append(calls),
    )
    speed._parent_clock(exam, 1000.0)
    assert asked == calls


def test_kernels_that_the_events_did_not_see(exam: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "AGREEMENT", BUSY_HOST)
    monkeypatch.setattr(FakeProfile, "busy_us", 5e9)
    with pytest.raises(Failed, match="CUPTI sees kernels for"):
        speed.timers_agree(exam)


def test_without_cupti_the_other_timers_are_held_against_each_other(
    exam: Exam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProfile, "absent", True)
    assert "no kernels by CUPTI here" in speed.timers_agree(exam)


def test_an_error_under_the_profiler_is_the_solutions(
    exam: Exam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else raising there would be a way around CUPTI."""
    exam.inputs("timed", exam.case(2, "timed", routing="half_local"))

    def raises(args: object) -> None:
        raise RuntimeError("not while I am watched")

    monkeypatch.setattr(exam.session.child, "_raw", raises)  # type: ignore[attr-defined]
    with pytest.raises(Fault, match="watched"):
        exam.session.ask("time_cupti", slot="timed", calls=2)


def test_memory_that_grows(exam: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter(range(0, 1 << 40, 64 << 20))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(taken))
    with pytest.raises(Failed, match="torch's allocator grew by 64 MiB"):
        device.device_memory(exam)


def test_faster_than_the_floor(exam: Exam) -> None:
    exam.floor_us = {1: 1e9}
    with pytest.raises(Failed, match="of the floor"):
        speed.latency_floor(exam)
