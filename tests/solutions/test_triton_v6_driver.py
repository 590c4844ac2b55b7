"""triton_v6's launches through the CUDA driver, with a stand-in for libcuda."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
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
STREAM, CONTEXT = 77, 0xC0FFEE
NAMES = ("route", "gemm1", "gemm2", "combine")
INVALID_VALUE, INVALID_CONTEXT, ILLEGAL_ADDRESS = 1, 201, 700
Run = Callable[..., None]
Layout = list[tuple[int, int]]


@pytest.fixture
def run() -> Run:
    return moe_cases.load_variant("triton_v6")


@dataclass
class Launched:
    """One call of cuLaunchKernelEx, as the driver would read it."""

    function: int
    grid: list[int]
    block: list[int]
    shared_memory: int
    stream: int
    attributes: list[tuple[int, int]]
    parameters: list[bytes]


@dataclass
class Library:
    """Stands for libcuda: kernels are known by the layout of their parameters."""

    layouts: dict[int, Layout]
    launched: list[Launched] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    """Results of the next launches; 0 when there are none left."""
    contexts: list[int] = field(default_factory=list)
    """What was made current."""
    end: int = INVALID_VALUE
    """Result for a parameter that a kernel does not have."""

    def cuFuncGetParamInfo(self, function: Any, index: Any, offset: Any, size: Any) -> int:
        layout = self.layouts[function.value]
        if index.value >= len(layout):
            return self.end
        offset._obj.value, size._obj.value = layout[index.value]
        return 0

    def cuCtxGetCurrent(self, context: Any) -> int:
        context._obj.value = CONTEXT
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        self.contexts.append(context.value)
        return 0

    def cuLaunchKernelEx(self, config: Any, function: Any, parameters: Any, extra: Any) -> int:
        assert extra is None
        code = self.codes.pop(0) if self.codes else 0
        if code:
            return code

        def read(address: int, kind: Any, count: int = 1) -> list[int]:
            return list((kind * count).from_address(address))

        # CUlaunchConfig of cuda.h: seven unsigned, four bytes of padding, stream, attributes, their number.
        seven = read(config.value, ctypes.c_uint, 7)
        stream, attributes = read(config.value + 32, ctypes.c_uint64, 2)
        (count,) = read(config.value + 48, ctypes.c_uint)
        layout = self.layouts[function.value]
        places = read(parameters.value, ctypes.c_uint64, len(layout))
        self.launched.append(
            Launched(
                function.value,
                seven[:3],
                seven[3:6],
                seven[6],
                stream,
                # CUlaunchAttribute: 72 bytes, an id, four bytes of padding, the value.
                [
                    (
                        *read(attributes + 72 * i, ctypes.c_int),
                        *read(attributes + 72 * i + 8, ctypes.c_int),
                    )
                    for i in range(count)
                ],
                [
                    ctypes.string_at(place, size)
                    for place, (_, size) in zip(places, layout, strict=True)
                ],
            )
        )
        return 0


def layout_of(step: Any, scratch: int = 2) -> Layout:
    """Offset and size of a kernel's parameters as Triton 3.6 and 3.7 compile them, pointers to scratch memory last."""
    runtime = [name for name in step.kernel.arg_names if name not in step.constants]
    sizes = [8 if name.endswith("_ptr") else 4 for name in runtime] + [8] * scratch
    found, at = [], 0
    for size in sizes:
        at += -at % size
        found.append((at, size))
        at += size
    return found


def compiled(step: Any, function: int, **changes: Any) -> SimpleNamespace:
    """Stands for what Triton compiled."""
    metadata = {
        "num_ctas": 1,
        "launch_cooperative_grid": False,
        "global_scratch_size": 0,
        "profile_scratch_size": 0,
        "num_warps": step.options["num_warps"],
        "shared": 1000 + function,
        "launch_pdl": step.options.get("launch_pdl", False),
        **changes,
    }
    metadata = {name: value for name, value in metadata.items() if value is not ...}
    return SimpleNamespace(metadata=SimpleNamespace(**metadata), function=function)


@dataclass
class Case:
    """A call's launches on the CPU, and a driver that knows its kernels as 1 to 4."""

    run: Run
    patch: pytest.MonkeyPatch
    entry: str = "few"
    tokens: int = 9

    def __post_init__(self) -> None:
        self.launch = moe_cases.module(self.run, "launch")
        self.driver = moe_cases.module(self.run, "driver")
        tiles = {t.name: t for t in moe_cases.module(self.run, "tiles").TABLE}[self.entry]
        workspace = moe_cases.module(self.run, "workspace")
        inputs = moe_cases.make_inputs(self.tokens, 32)
        *tensors, self.offset, self.factor = inputs.args()
        self.args = self.launch.Arguments(*tensors, moe_cases.poisoned_output(inputs))
        self.buffers = workspace.buffers_for(
            workspace.Workspace(torch.device("cpu")),
            self.tokens,
            moe_cases.NUM_LOCAL,
            512,
            256,
            tiles,
        )
        self.steps = self.launch.steps_for(self.args, tiles, pdl=True)
        self.cuda = Library(
            {f: layout_of(s) for f, s in enumerate(self.launch.fields_of(self.steps), 1)}
        )
        self.patch.setattr(self.driver, "library", lambda: self.cuda)

    def plan(self, changed: int = 0, **changes: Any) -> Any:
        """A plan of kernels of which one's metadata are changed."""
        kernels = tuple(
            compiled(step, function, **(changes if function == changed else {}))
            for function, step in enumerate(self.launch.fields_of(self.steps), 1)
        )
        return self.launch.Plan(self.steps, kernels, self.buffers, self.tokens, STREAM)

    def call(self, plan: Any) -> None:
        addresses = tuple(t.data_ptr() for t in self.launch.fields_of(self.args))
        plan.launch(addresses, self.offset, self.factor)

    def through_triton(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Every step and what `launch` hands it."""
        seen: list[tuple[Any, tuple[Any, ...]]] = []
        with self.patch.context() as patch:
            patch.setattr(
                self.launch.Step, "__call__", lambda step, *values: seen.append((step, values))
            )
            fields_of = self.launch.fields_of
            tensors, buffers = fields_of(self.args), fields_of(self.buffers)
            self.launch.launch(self.steps, tensors, buffers, self.tokens, self.offset, self.factor)
        return seen


def as_bytes(value: Any) -> bytes:
    """A parameter as a kernel gets it."""
    if isinstance(value, torch.Tensor):
        return bytes(ctypes.c_uint64(value.data_ptr()))
    return bytes(ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int32(value))


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
        case.launch.Plan(case.steps, (None,) * len(steps), case.buffers, case.tokens, STREAM)


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


class OnGpu(torch.Tensor):
    """Says that it lies on the first GPU."""

    def get_device(self) -> int:
        return 0


@pytest.mark.parametrize(("codes", "error"), [([], None), ([0, ILLEGAL_ADDRESS], "CUresult 700")])
def test_a_failed_launch_drops_the_workspace(
    run: Run, monkeypatch: pytest.MonkeyPatch, codes: list[int], error: str | None
) -> None:
    """Kernels after it did not run, so counters may not be zero; a call that succeeds keeps its plan."""
    case = Case(run, monkeypatch)
    main = moe_cases.module(run, "main")
    monkeypatch.setattr(main, "_raw_stream", lambda device: STREAM)
    monkeypatch.setattr(main, "_current_device", lambda: 0)
    monkeypatch.setattr(main, "_is_capturing", lambda: False)
    *inputs, output = (t.as_subclass(OnGpu) for t in case.launch.fields_of(case.args))
    shapes = (inputs[2].shape, inputs[6].shape, inputs[0].shape, None)
    main._WORKSPACES.get(0, STREAM).plans[shapes] = case.plan()
    main._WORKSPACES.get(0, STREAM + 1)
    case.cuda.codes = list(codes)
    if error is None:
        run(*inputs, case.offset, case.factor, output)
        assert len(case.cuda.launched) == 4
        addresses = [as_bytes(t) for t in (*inputs[:2],)]
        assert case.cuda.launched[0].parameters[:2] == addresses
    else:
        with pytest.raises(RuntimeError, match=error):
            run(*inputs, case.offset, case.factor, output)
    kept = {(0, STREAM + 1)} | (set() if error else {(0, STREAM)})
    assert set(main._WORKSPACES._workspaces) == kept
