"""triton_v5's prepared launches, with stand-ins for compiled kernels, and its choice of f8 parts.

What triton_v6 has in common with it is tested for both.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import moe_cases

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the variants here"),
    pytest.mark.usefixtures("poisoned_workspace"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
STREAM = 77
Run = Callable[..., None]


@pytest.fixture
def run() -> Run:
    return moe_cases.load_variant("triton_v5")


@pytest.fixture(params=["triton_v5", "triton_v6"])
def either(request: pytest.FixtureRequest) -> Run:
    return moe_cases.load_variant(request.param)


class Compiled:
    """Stands for Triton's compiled kernel: indexed with a grid, called with every argument of the kernel's signature."""

    def __init__(self, name: str, calls: list[tuple[Any, ...]]) -> None:
        self.name, self.calls = name, calls

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        def launch(*args: Any, stream: int) -> None:
            self.calls.append((self.name, grid, args, stream))

        return launch


def test_a_plan_launches_what_triton_launched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same kernels, grids and arguments as through Triton's launcher, with addresses in place of tensors."""
    launch, table = moe_cases.module(run, "launch"), moe_cases.module(run, "tiles")
    workspace = moe_cases.module(run, "workspace")
    inputs = moe_cases.make_inputs(9, 32)
    *tensors, offset, factor = inputs.args()
    args = launch.Arguments(*tensors, moe_cases.poisoned_output(inputs))
    for tiles in table.TABLE:
        buffers = workspace.buffers_for(
            workspace.Workspace(torch.device("cpu")), 9, moe_cases.NUM_LOCAL, 512, 256, tiles
        )
        steps, launched = launch.steps_for(args, tiles, pdl=True), []

        def record(step: Any, *values: Any, seen: list[Any] = launched) -> None:
            seen.append((step, values))

        with monkeypatch.context() as patch:
            patch.setattr(launch.Step, "__call__", record)
            launch.launch(
                steps, launch.fields_of(args), launch.fields_of(buffers), 9, offset, factor
            )
        calls: list[tuple[Any, ...]] = []
        names = ("route", "gemm1", "gemm2", "combine")
        plan = launch.Plan(steps, tuple(Compiled(n, calls) for n in names), buffers, 9, STREAM)
        plan.launch(tuple(t.data_ptr() for t in launch.fields_of(args)), offset, factor)

        assert [name for name, *_ in calls] == list(names)
        for (name, grid, got, stream), (step, values) in zip(calls, launched, strict=True):
            named = dict(zip(step.kernel.arg_names, values, strict=False)) | step.constants
            wanted = [named[parameter] for parameter in step.kernel.arg_names]
            wanted = [v.data_ptr() if isinstance(v, torch.Tensor) else v for v in wanted]
            assert list(got) == wanted, f"{tiles.name} {name}"
            assert grid == step.grid and stream == STREAM, f"{tiles.name} {name}"


def test_arguments_that_plans_change_are_not_specialised(either: Run) -> None:
    """A kernel compiled for one offset, factor or T must serve all."""
    launch = moe_cases.module(either, "launch")
    inputs = moe_cases.make_inputs(2, 0)
    *tensors, _, _ = inputs.args()
    args = launch.Arguments(*tensors, moe_cases.poisoned_output(inputs))
    for step in launch.fields_of(
        launch.steps_for(args, moe_cases.module(either, "tiles").TABLE[0])
    ):
        runtime = [n for n in step.kernel.arg_names if n not in step.constants]
        numbers = {n for n in runtime if not n.endswith("_ptr")}
        source = Path(step.kernel.fn.__code__.co_filename).read_text()
        head = source[: source.index(f"def {step.kernel.fn.__name__}(")].splitlines()[-1]
        assert all(f'"{name}"' in head for name in numbers), (step.kernel.fn.__name__, head)


def test_a_plan_goes_when_a_buffer_moves(either: Run) -> None:
    workspace = moe_cases.module(either, "workspace").Workspace(torch.device("cpu"))
    workspace.get("rows", (4, 8), torch.int32)
    workspace.plans["key"] = "plan"
    workspace.get("rows", (4, 7), torch.int32)
    assert workspace.plans == {"key": "plan"}, "a smaller view moves nothing"
    workspace.get("rows", (4, 9), torch.int32)
    assert workspace.plans == {}


def test_streams_and_devices_have_workspaces_of_their_own(either: Run) -> None:
    workspaces = moe_cases.module(either, "workspace").Workspaces()
    first = workspaces.get(-1, 1)
    assert workspaces.get(-1, 1) is first and workspaces.get(-1, 2) is not first
    workspaces.drop(-1, 1)
    assert workspaces.get(-1, 1) is not first


@pytest.mark.parametrize(("parts", "low", "high"), [(1, 0.015, 0.035), (2, 0.0, 0.01)])
@pytest.mark.parametrize("entry", ["one", "some"])
def test_parts_decide_the_accuracy(
    run: Run, entry: str, parts: int, low: float, high: float
) -> None:
    """One part costs what an FP8 intermediate costs, two what a bf16 one costs."""
    inputs = moe_cases.make_inputs(3, 77, "all_local")
    tiles = {t.name: t for t in moe_cases.module(run, "tiles").TABLE}[entry]
    output = moe_cases.poisoned_output(inputs)
    moe_cases.module(run, "main").run_with(
        *inputs.args(), output, tiles=replace(tiles, parts=parts)
    )
    expected = moe_cases.reference().run(*inputs.args()).float()
    error = float((output.float() - expected).norm() / expected.norm())
    assert low < error < high
