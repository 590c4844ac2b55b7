"""The host side of the hopper solutions that torch binds: scalars, grad mode, threads, a failed allocation.

Run with `pytest -m gpu tests/gpu`; needs about 40 GB of GPU memory, nearly all of which one test fills for a moment.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.environment import visible_gpus
from tests import moe_cases
from tests.gpu.test_variants_gpu import full_size, load, run_and_check
from tests.harness.folders import discover

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not visible_gpus(), reason="needs a GPU"),
]
FOLDERS = ("hopper_v10", "hopper_v11", "hopper_v12", "hopper_v13", "hopper_v14", "hopper_v15")
HOPPER = [v for v in discover(moe_cases.ROOT / "solutions") if v.folder.name in FOLDERS]
SPARE = 32 << 20
"""Bytes left free: enough for a call with few tokens, too few for the 67 MB that 4,096 tokens have after GEMM1."""


@pytest.fixture(scope="module", params=HOPPER, ids=lambda v: v.folder.name)
def solution(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Callable[..., None]]:
    """Folder and entry point."""
    return request.param.folder.name, load(request.param, tmp_path_factory.mktemp("kernels"))


SCALARS: dict[str, tuple[Any, Any]] = {
    "numpy": (np.int64(77), np.float32(1.5)),
    "tensors of no dimension": (torch.tensor(77), torch.tensor(1.5)),
    "numpy array of no dimension": (np.array(77), np.array(1.5)),
    "an int for the factor": (77, 3),
}


@pytest.mark.parametrize("case", SCALARS)
def test_what_converts_to_a_number(solution: tuple[str, Callable[..., None]], case: str) -> None:
    name, run = solution
    offset, factor = SCALARS[case]
    inputs = replace(
        full_size(7, 77, "half_local", seed=7),
        local_expert_offset=int(offset),
        routed_scaling_factor=float(factor),
    )

    def converted(*arguments: Any) -> None:
        *tensors, _, _, output = arguments
        run(*tensors, offset, factor, output)

    run_and_check(converted, inputs, f"{name} {case}")


def test_a_factor_beyond_a_float32(solution: tuple[str, Callable[..., None]]) -> None:
    """hopper_v10 multiplies by infinity, its successors refuse it."""
    name, run = solution
    inputs = full_size(7, 32, seed=6)
    if name == "hopper_v10":
        pytest.skip("takes it for infinity")
    with pytest.raises(ValueError, match=r"^routed_scaling_factor: beyond a float32$"):
        run(*with_scalars(inputs, 32, 1e39))
    run(*with_scalars(inputs, 32, float("inf")))


class TwoTexts(Exception):
    """Cannot be made of one text."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one, two)


class Raises:
    """A number whose conversion fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __float__(self) -> float:
        raise self.error

    def __index__(self) -> int:
        raise self.error


def with_scalars(inputs: moe_cases.Inputs, offset: Any, factor: Any) -> list[Any]:
    """Arguments of a call with an output."""
    return [*inputs.args()[:8], offset, factor, moe_cases.poisoned_output(inputs)]


def test_errors_of_conversions(solution: tuple[str, Callable[..., None]]) -> None:
    """They name the argument and keep their type; of hopper_v11 they keep the cause, too."""
    name, run = solution
    inputs = full_size(7, 32, seed=8)
    with pytest.raises(TypeError, match=r"^local_expert_offset: "):
        run(*with_scalars(inputs, 32.0, 2.5))
    with pytest.raises(ValueError, match=r"^local_expert_offset: "):
        run(*with_scalars(inputs, 1 << 31, 2.5))
    original = LookupError("why")
    with pytest.raises(LookupError, match=r"^routed_scaling_factor: why$") as caught:
        run(*with_scalars(inputs, 32, Raises(original)))
    if name != "hopper_v10":
        assert caught.value.__cause__ is original
        assert original.__traceback__ is not None
        for error in (TwoTexts("one", "two"), KeyboardInterrupt()):
            with pytest.raises(type(error)) as unnamed:
                run(*with_scalars(inputs, Raises(error), 2.5))
            assert unnamed.value is error
    run_and_check(run, inputs, f"{name} after errors")


def test_an_output_that_requires_grad(solution: tuple[str, Callable[..., None]]) -> None:
    name, run = solution
    inputs = full_size(57, 32, seed=9)
    expected = moe_cases.reference().run(*inputs.args())
    output = moe_cases.poisoned_output(inputs).requires_grad_()
    with pytest.raises(ValueError, match=r"^output: requires grad"):
        run(*inputs.args(), output)
    assert output.isnan().all(), f"{name} wrote to an output that it refused"
    with torch.no_grad():
        run(*inputs.args(), output)
    torch.cuda.synchronize()
    moe_cases.check(output.detach(), expected, inputs, f"{name} under no_grad")


def test_two_threads_on_two_streams(solution: tuple[str, Callable[..., None]]) -> None:
    """The workspaces of two streams grow side by side."""
    name, run = solution
    calls = [
        [full_size(t, 32, seed=10 + t) for t in row] for row in ((1, 129, 700), (16, 57, 1250))
    ]
    at_work_on_streams(name, run, calls, [torch.cuda.Stream() for _ in calls])


def test_threads_on_one_stream(solution: tuple[str, Callable[..., None]]) -> None:
    """While one thread's call makes its workspace grow, others of the same stream come in between."""
    name, run = solution
    calls = [full_size(t, 32, "half_local", seed=20 + t) for t in (1, 7, 57, 128, 129, 600, 1250)]
    # Two rise together and two are one behind, so that a call wants more than the other has just made.
    behind = [calls[0], *calls[:-1]]
    at_work_on_streams(name, run, [calls, behind] * 2, [torch.cuda.Stream()] * 4)


def at_work_on_streams(
    name: str,
    run: Callable[..., None],
    calls: list[list[moe_cases.Inputs]],
    streams: list[torch.cuda.Stream],
) -> None:
    """A thread for each stream, whose calls it makes one after another, each together with the other threads' calls."""
    expected = [[moe_cases.reference().run(*i.args()) for i in row] for row in calls]
    outputs = [[moe_cases.poisoned_output(i) for i in row] for row in calls]
    together = threading.Barrier(len(calls))
    torch.cuda.synchronize()

    def work(thread: int) -> None:
        with torch.cuda.stream(streams[thread]):
            for inputs, output in zip(calls[thread], outputs[thread], strict=True):
                together.wait(timeout=60)
                run(*inputs.args(), output)

    with ThreadPoolExecutor(len(calls)) as threads:
        jobs = [threads.submit(work, thread) for thread in range(len(calls))]
        errors = [error for job in jobs if (error := job.exception())]
    # A thread that fails leaves the others waiting.
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    torch.cuda.synchronize()
    for thread, row in enumerate(calls):
        for inputs, output, want in zip(row, outputs[thread], expected[thread], strict=True):
            moe_cases.check(output, want, inputs, f"{name} in thread {thread}")


def test_other_weights_in_a_thread_that_has_not_used_the_device(
    solution: tuple[str, Callable[..., None]],
) -> None:
    """Their tensor maps are made there, by the driver, which needs a context."""
    name, run = solution
    if name == "hopper_v10":
        pytest.skip("not said of it")
    inputs = full_size(57, 32, seed=30)
    run_and_check(run, inputs, f"{name} in the thread that loaded it")
    other = inputs.clone()
    expected = moe_cases.reference().run(*other.args())
    output = moe_cases.poisoned_output(other)
    torch.cuda.synchronize()
    with ThreadPoolExecutor(1) as another:
        another.submit(run, *other.args(), output).result()
    torch.cuda.synchronize()
    moe_cases.check(output, expected, other, f"{name} in another thread")


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_growing_while_a_graph_is_captured(solution: tuple[str, Callable[..., None]]) -> None:
    """It is refused, as what makes new memory zero would not run; a capture that finds enough replays on present contents."""
    name, run = solution
    if name == "hopper_v10":
        pytest.skip("does not look")
    few, many = full_size(57, 32, seed=31), full_size(4096, 32, seed=32)
    output = moe_cases.poisoned_output(many)
    stream = torch.cuda.Stream()

    def captured(inputs: moe_cases.Inputs) -> torch.cuda.CUDAGraph:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
            run(*inputs.args(), output)
        return graph

    with torch.cuda.stream(stream):
        run_and_check(run, few, f"{name} before a capture")
    with pytest.raises(RuntimeError, match="cannot grow while a CUDA graph is captured"):
        captured(many)
    with torch.cuda.stream(stream):
        run_and_check(run, few, f"{name} after a capture that was refused")
        run_and_check(run, many, f"{name} with more tokens")
    graph = captured(many)
    fresh = full_size(4096, 32, seed=33)
    many.hidden_states.view(torch.uint8).copy_(fresh.hidden_states.view(torch.uint8))
    expected = moe_cases.reference().run(*many.args())
    output.fill_(float("nan"))
    torch.cuda.synchronize()
    graph.replay()
    torch.cuda.synchronize()
    moe_cases.check(output, expected, many, f"{name} replayed")


def test_a_failed_allocation(solution: tuple[str, Callable[..., None]]) -> None:
    """A call that gets no memory raises; calls that need less and calls after memory is there again are right."""
    name, run = solution
    cases = [full_size(tokens, 32, seed=40 + tokens) for tokens in (7, 4096)]
    expected = [moe_cases.reference().run(*case.args()) for case in cases]
    outputs = [[moe_cases.poisoned_output(case) for _ in range(3)] for case in cases]
    few, many = cases
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    with torch.cuda.stream(torch.cuda.Stream()):
        run(*few.args(), outputs[0][0])
        torch.cuda.synchronize()
        hog = torch.empty(torch.cuda.mem_get_info()[0] - SPARE, dtype=torch.uint8, device="cuda")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="cudaErrorMemoryAllocation"):
                run(*many.args(), outputs[1][0])
        run(*few.args(), outputs[0][1])
        torch.cuda.synchronize()
        del hog
        torch.cuda.empty_cache()
        run(*many.args(), outputs[1][1])
        run(*few.args(), outputs[0][2])
        run(*many.args(), outputs[1][2])
    torch.cuda.synchronize()
    assert outputs[1][0].isnan().all(), f"{name} wrote to the output of a call that failed"
    for case, outs, want in zip(cases, outputs, expected, strict=True):
        for call, output in enumerate(outs):
            if case is few or call > 0:
                moe_cases.check(
                    output, want, case, f"{name} beside a failed allocation, call {call}"
                )
