"""A stand-in for libcuda, and a call of triton_v6 on the CPU whose plan launches through it."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import moe_cases

STREAM, CONTEXT = 77, 0xC0FFEE
INVALID_VALUE, INVALID_CONTEXT, ILLEGAL_ADDRESS = 1, 201, 700  # CUresult
Run = Callable[..., None]
Layout = list[tuple[int, int]]


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
    current: tuple[int, int | None] = (0, CONTEXT)
    """Result of asking for the current context, and that context."""
    end: int = INVALID_VALUE
    """Result for a parameter that a kernel does not have."""

    def cuFuncGetParamInfo(self, function: Any, index: Any, offset: Any, size: Any) -> int:
        layout = self.layouts[function.value]
        if index.value >= len(layout):
            return self.end
        offset._obj.value, size._obj.value = layout[index.value]
        return 0

    def cuCtxGetCurrent(self, context: Any) -> int:
        code, context._obj.value = self.current
        return code

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
        tensors = self.launch.fields_of(self.args)
        return self.launch.Plan(self.steps, kernels, tensors, self.buffers, self.tokens, STREAM)

    def planned(self) -> Any:
        """The module of `run`, which takes tensors for ones on the first GPU and has a plan for the case's."""
        main = moe_cases.module(self.run, "main")
        self.patch.setattr(main, "_device", lambda tensor: 0)
        self.patch.setattr(main, "_raw_stream", lambda device: STREAM)
        self.patch.setattr(main, "_current_device", lambda: 0)
        self.patch.setattr(main, "_is_capturing", lambda: False)
        key = (self.args.x.shape, self.args.w2.shape, None)
        main._WORKSPACES.get(0, STREAM).plans[key] = self.plan()
        return main

    def arguments(self) -> list[Any]:
        """Of `run`."""
        *inputs, output = self.launch.fields_of(self.args)
        return [*inputs, self.offset, self.factor, output]

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
