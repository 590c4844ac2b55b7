"""triton_v6's launches through the CUDA driver, and the plans they are made of, with a stand-in for libcuda."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import moe_cases
from tests.solutions.stub_driver import (
    CONTEXT,
    ILLEGAL_ADDRESS,
    INVALID_CONTEXT,
    STREAM,
    Case,
    Layout,
    Run,
    as_bytes,
    layout_of,
)

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the variants here"),
    pytest.mark.usefixtures("poisoned_workspace"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
NAMES = ("route", "gemm1", "gemm2", "combine")


@pytest.fixture
def run() -> Run:
    return moe_cases.load_variant("triton_v6")


@pytest.mark.parametrize("entry", moe_cases.TILE_ENTRIES["triton_v6"])
def test_a_plan_launches_what_triton_launches(
    run: Run, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """Same kernels, grids and arguments as through Triton's launcher, for new tensors in every call."""
    case = Case(run, monkeypatch, entry)
    plan = case.plan()
    for _ in range(2):
        case.cuda.launched.clear()
        case.call(plan)
        wanted = case.through_triton()
        assert len(case.cuda.launched) == len(wanted) == 4
        for at, (got, (step, values)) in enumerate(zip(case.cuda.launched, wanted, strict=True)):
            name = NAMES[at]
            assert got.function == at + 1
            assert got.grid == list(step.grid) and got.stream == STREAM, name
            assert got.block == [32 * step.options["num_warps"], 1, 1], name
            assert got.shared_memory == 1000 + got.function, name
            # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, on; the first kernel waits for all before it.
            assert got.attributes == ([] if name == "route" else [(6, 1)]), name
            assert got.parameters[:-2] == [as_bytes(value) for value in values], name
            assert got.parameters[-2:] == [bytes(8)] * 2, name
        clones = {name: t.clone() for name, t in case.args.__dict__.items()}
        case.args = replace(case.args, **clones)
        case.offset, case.factor = 64, 1.5


@pytest.mark.parametrize("scratch", [0, 1, 2])
def test_scratch_pointers_are_counted(
    run: Run, monkeypatch: pytest.MonkeyPatch, scratch: int
) -> None:
    """Triton says by the kernel how many it adds; all are null."""
    case = Case(run, monkeypatch)
    steps = case.launch.fields_of(case.steps)
    case.cuda.layouts = {f: layout_of(step, scratch) for f, step in enumerate(steps, 1)}
    case.call(case.plan())
    for got, (_, values) in zip(case.cuda.launched, case.through_triton(), strict=True):
        assert got.parameters == [as_bytes(v) for v in values] + [bytes(8)] * scratch


def _wider(layout: Layout) -> Layout:
    """The first of 4 bytes has 8; what follows stays where it is or moves, as alignment says."""
    at = next((i for i, (_, size) in enumerate(layout) if size == 4), 0)
    return [*layout[:at], (layout[at][0], 16 if layout[at][1] == 8 else 8), *layout[at + 1 :]]


LAYOUTS: dict[str, Callable[[Layout], Layout]] = {
    "a parameter fewer": lambda layout: layout[:-3],
    "a third scratch pointer": lambda layout: [*layout, (layout[-1][0] + 8, 8)],
    "a last parameter of 4 bytes": lambda layout: [*layout[:-1], (layout[-1][0], 4)],
    "a wider parameter": _wider,
    "another place": lambda layout: [layout[0], (layout[1][0] + 8, 8), *layout[2:]],
    "many parameters": lambda layout: [(8 * i, 8) for i in range(100)],
    "none": lambda layout: [],
}


@pytest.mark.parametrize("function", range(1, 5))
@pytest.mark.parametrize("what", LAYOUTS)
def test_no_plan_with_another_layout(
    run: Run, monkeypatch: pytest.MonkeyPatch, what: str, function: int
) -> None:
    case = Case(run, monkeypatch)
    case.cuda.layouts[function] = LAYOUTS[what](case.cuda.layouts[function])
    with pytest.raises(case.driver.Unsupported, match="parameters at"):
        case.plan()
    assert not case.cuda.launched


def test_no_plan_where_the_driver_does_not_say(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver before CUDA 12.4, one that fails for another reason than a missing parameter, none at all."""
    case = Case(run, monkeypatch)
    case.cuda.end = ILLEGAL_ADDRESS
    with pytest.raises(case.driver.Unsupported, match="does not say"):
        case.plan()
    old = SimpleNamespace(cuLaunchKernelEx=case.cuda.cuLaunchKernelEx)
    for library in (old, None):
        monkeypatch.setattr(case.driver, "library", lambda found=library: found)
        with pytest.raises(case.driver.Unsupported, match="does not say"):
            case.plan()


@pytest.mark.parametrize("function", range(1, 5))
@pytest.mark.parametrize(
    "changes",
    [
        {"num_ctas": 2},
        {"launch_cooperative_grid": True},
        {"global_scratch_size": 128},
        {"profile_scratch_size": 1},
        *[{name: ...} for name in ("num_ctas", "launch_cooperative_grid", "global_scratch_size")],
        *[{name: ...} for name in ("profile_scratch_size", "num_warps", "shared", "launch_pdl")],
    ],
    ids=str,
)
def test_no_plan_for_what_needs_more(
    run: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], function: int
) -> None:
    """Clusters, cooperative grids and scratch memory, or metadata that do not say (...) whether."""
    case = Case(run, monkeypatch)
    with pytest.raises(case.driver.Unsupported, match="metadata"):
        case.plan(function, **changes)


def test_a_kernel_without_a_handle_has_no_plan(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(run, monkeypatch)
    steps = case.launch.fields_of(case.steps)
    with pytest.raises(case.driver.Unsupported):
        tensors = case.launch.fields_of(case.args)
        kernels = (None,) * len(steps)
        case.launch.Plan(case.steps, kernels, tensors, case.buffers, case.tokens, STREAM)


@pytest.mark.parametrize("current", [(INVALID_CONTEXT, None), (3, CONTEXT), (0, None)])
def test_no_plan_without_a_current_context(
    run: Run, monkeypatch: pytest.MonkeyPatch, current: tuple[int, int | None]
) -> None:
    """It could not be given to another thread."""
    case = Case(run, monkeypatch)
    case.cuda.current = current
    with pytest.raises(case.driver.Unsupported, match="cuCtxGetCurrent"):
        case.plan()


def test_where_there_is_no_plan_triton_launches(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's kernels are not compiled: a call with a key goes on without a plan, and tries once."""
    main = moe_cases.module(run, "main")
    made: list[Any] = []

    class Counted(main.Plan):
        def __init__(self, *args: Any) -> None:
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr(main, "Plan", Counted)
    inputs = moe_cases.make_inputs(3, 32, **moe_cases.TINY)
    *tensors, offset, factor = inputs.args()
    for call in range(2):
        output = moe_cases.poisoned_output(inputs)
        main._call((*tensors, output), offset, factor, 0, "key", None)
        moe_cases.check(output, moe_cases.reference().run(*inputs.args()), inputs, f"call {call}")
    (workspace,) = main._WORKSPACES._workspaces.values()
    assert workspace.plans == {"key": None} and len(made) == 1


def test_a_thread_without_a_context_gets_the_plans(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launch that failed is repeated, once, and the others follow."""
    case = Case(run, monkeypatch)
    plan = case.plan()
    case.cuda.codes = [INVALID_CONTEXT]
    case.call(plan)
    assert case.cuda.contexts == [CONTEXT]
    assert [launched.function for launched in case.cuda.launched] == [1, 2, 3, 4]
    case.cuda.codes = [0, INVALID_CONTEXT, INVALID_CONTEXT]
    with pytest.raises(RuntimeError, match="201"):
        case.call(plan)
    assert [launched.function for launched in case.cuda.launched][4:] == [1]


@pytest.mark.parametrize(("codes", "error"), [([], None), ([0, ILLEGAL_ADDRESS], "CUresult 700")])
def test_a_failed_launch_drops_the_workspace(
    run: Run, monkeypatch: pytest.MonkeyPatch, codes: list[int], error: str | None
) -> None:
    """Kernels after it did not run, so counters may not be zero; a call that succeeds keeps its plan."""
    case = Case(run, monkeypatch)
    main = case.planned()
    main._WORKSPACES.get(0, STREAM + 1)
    case.cuda.codes = list(codes)
    if error is None:
        run(*case.arguments())
        assert len(case.cuda.launched) == 4
        addresses = [as_bytes(t) for t in case.arguments()[:2]]
        assert case.cuda.launched[0].parameters[:2] == addresses
    else:
        with pytest.raises(RuntimeError, match=error):
            run(*case.arguments())
    kept = {(0, STREAM + 1)} | (set() if error else {(0, STREAM)})
    assert set(main._WORKSPACES._workspaces) == kept


def test_a_plan_takes_what_fits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tensors of the same shapes; strided ones, which Triton's launcher takes, leave it alone."""
    case = Case(run, monkeypatch)
    main = case.planned()
    case.args = replace(case.args, **{n: t.clone() for n, t in case.args.__dict__.items()})
    with torch.no_grad():
        run(*case.arguments())
    run(*case.arguments())
    assert len(case.cuda.launched) == 8
    calls: list[Any] = []
    monkeypatch.setattr(main, "_call", lambda *args: calls.append(args))
    strided = case.arguments()
    strided[3] = strided[3].t().contiguous().t()
    run(*strided)
    assert len(calls) == 1 and len(case.cuda.launched) == 8


def test_no_plan_for_a_device_that_is_not_current(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is taken, and none is made again on every call."""
    case = Case(run, monkeypatch)
    main = case.planned()
    keys: list[Any] = []
    monkeypatch.setattr(main, "_current_device", lambda: 1)
    monkeypatch.setattr(main, "_call", lambda *args: keys.append(args[-2]))
    run(*case.arguments())
    assert keys == [None] and not case.cuda.launched


def test_a_call_that_no_plan_takes_makes_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same key, but weights that require grad: the new plan takes them. Strided tensors make none."""
    main = moe_cases.module(run, "main")
    made: list[Any] = []

    class Made:
        def __init__(self, steps: Any, compiled: Any, tensors: Any, *rest: Any) -> None:
            self.fits = moe_cases.module(run, "arguments").guard(tensors)
            made.append(self)

    monkeypatch.setattr(main, "Plan", Made)
    *tensors, offset, factor = moe_cases.make_inputs(2, 32, **moe_cases.TINY).args()
    output = moe_cases.poisoned_output(moe_cases.make_inputs(2, 32, **moe_cases.TINY))
    graded = [*tensors]
    graded[1] = tensors[1].clone().requires_grad_()
    strided = [*tensors]
    strided[3] = tensors[3].t().contiguous().t()
    for inputs, plans in ((tensors, 1), (strided, 1), (graded, 2), (tensors, 3)):
        main._call((*inputs, output), offset, factor, 0, "key", None)
        assert len(made) == plans
        (workspace,) = main._WORKSPACES._workspaces.values()
        assert workspace.plans == {"key": made[-1]}
        assert inputs is strided or made[-1].fits(*inputs, output)


@pytest.mark.parametrize("broken", ["none", "other parameters", "refuses all"])
def test_no_plan_without_a_guard(run: Run, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """A PyTorch that has none, or one that is not what is called here."""
    from torch._C._dynamo import guards

    case = Case(run, monkeypatch)
    if broken == "none":
        monkeypatch.delattr(guards, "TensorGuards")
    elif broken == "other parameters":
        monkeypatch.setattr(guards, "TensorGuards", lambda *tensors: None)
    else:
        refuses = SimpleNamespace(check=lambda *tensors: False)
        monkeypatch.setattr(guards, "TensorGuards", lambda *tensors, **options: refuses)
    with pytest.raises(case.driver.Unsupported, match="guard"):
        case.plan()


def test_the_oldest_plans_go(run: Run) -> None:
    """When there are too many; one that is replaced is no further one."""
    workspace = moe_cases.module(run, "workspace")
    found = workspace.Workspace(torch.device("cpu"))
    most = workspace.MOST_PLANS
    for key in range(most):
        found.keep(key, f"plan {key}")
    found.keep(most - 1, "another")
    assert len(found.plans) == most and found.plans[most - 1] == "another"
    found.keep(most, "one more")
    found.keep(most + 1, None)
    assert list(found.plans) == list(range(2, most + 2))
