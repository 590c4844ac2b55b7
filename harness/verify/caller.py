"""The child's solution, its inputs, and calls of it whose outputs are poisoned before and kept apart after."""

import sys
from pathlib import Path
from typing import Any

import torch
from flashinfer_bench.bench import utils as _utils  # noqa: F401
from flashinfer_bench.bench.evaluators import default as _default  # noqa: F401
from flashinfer_bench.bench.evaluators import utils as _evaluators  # noqa: F401 - watched by the snapshot
from flashinfer_bench.compile import Runnable
from flashinfer_bench.data import TraceSet

from harness.verify import snapshot
from harness.verify.inputs import ACTIVATION_NAMES, WEIGHT_NAMES, Sizes, Tensors
from harness.verify.protocol import OUTPUTS

BF16_NAN = 0xFF  # every byte of a poisoned output
HELD_OUTPUTS = (
    8  # earlier outputs that are kept alive, to see whether a later one shares their memory
)
POISON_SIZES = {"cpu": range(9, 25), "cuda": range(9, 29)}
"""log2 of the blocks that are filled with NaN and freed before a call, by type of device."""


class CannotWrite(Exception):
    """No room for an output: nothing that the solution did."""

    def __init__(self, error: OSError):
        super().__init__(str(error))
        self.errno = error.errno


class Caller:
    """State between commands: the solution, weights by name, and activations by slot."""

    def __init__(self, folder: Path, root: Path, definition: str, solution: str, device: str):
        trace_set = TraceSet.from_path(str(root))
        self.definition = trace_set.definitions[definition]
        self.solution = trace_set.get_solution(solution)
        axes = {
            name: axis.value
            for name, axis in self.definition.axes.items()
            if hasattr(axis, "value")
        }
        self.sizes = Sizes.of(axes)
        self.device = device
        self.on_gpu = device.startswith("cuda")
        self.folder = folder / OUTPUTS
        self.weights: dict[str, Tensors] = {}
        self.slots: dict[str, list[Any]] = {}
        self.held: list[torch.Tensor] = []
        self.calls = 0
        self.burst_marks = 0
        self.runnable: Runnable | None = None
        self.functions = snapshot.take()
        self.threads = len(sys._current_frames())

    def can_go_on(self) -> bool:
        """False once the GPU has lost this process's context, as after an illegal access: every later call fails, too."""
        try:
            self._sync()
        except RuntimeError:
            return False
        return True

    def _order(self) -> tuple[str, ...]:
        return (*ACTIVATION_NAMES, *WEIGHT_NAMES)

    def _named(self, slot: str) -> Tensors:
        return dict(zip(self._order(), self.slots[slot], strict=False))

    def _arguments(
        self, activations: Tensors, weights: str, offset: int, factor: float
    ) -> list[Any]:
        tensors = {**activations, **self.weights[weights]}
        return [*(tensors[name] for name in self._order()), offset, factor]

    def _poisoned(self, args: list[Any]) -> torch.Tensor:
        output = torch.empty(args[2].shape, dtype=torch.bfloat16, device=self.device)
        output.view(torch.uint8).fill_(BF16_NAN)
        return output

    def _poison_free_memory(self) -> None:
        """What the allocator hands out next held NaN: a row that is never written shows in returned outputs, too."""
        blocks = [
            torch.empty(1 << size, dtype=torch.uint8, device=self.device)
            for size in POISON_SIZES[self.device.split(":")[0]]
        ]
        for block in blocks:
            block.fill_(BF16_NAN)

    def _raw(self, args: list[Any]) -> Any:
        """The call itself; `args` ends with the output's memory, which a value-returning solution does not get."""
        assert self.runnable is not None
        with torch.no_grad():
            if self.runnable.metadata.destination_passing_style:
                self.runnable(*args)
                return args[-1]
            return self.runnable(*args[:-1])

    def _invoke(
        self, args: list[Any], poison: bool, given: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        if poison:
            self._poison_free_memory()
        if given is None:
            given = self._poisoned(args)
        else:
            given.view(torch.uint8).fill_(BF16_NAN)
        address = given.data_ptr()
        result = self._raw([*args, given])
        if isinstance(result, (tuple, list)) and len(result) == 1:
            result = result[0]
        self.calls += 1
        threads = len(sys._current_frames()) - self.threads
        facts: dict[str, Any] = {
            "type": f"{type(result).__module__}.{type(result).__qualname__}",
            "threads": threads,
        }
        if not isinstance(result, torch.Tensor):
            raise TypeError(f"the solution returned {type(result).__name__}, not a tensor")
        facts |= {
            "shape": list(result.shape),
            "dtype": str(result.dtype),
            "device": str(result.device),
            "layout": str(result.layout),
            "contiguous": result.is_contiguous(),
            "moved": self.runnable.metadata.destination_passing_style
            and result.data_ptr() != address,
        }
        return result, facts

    def _call(self, slot: str) -> tuple[torch.Tensor, dict[str, Any]]:
        args = self.slots[slot]
        output, facts = self._invoke(args, poison=True)
        mine = _span(output)
        inputs = {name: _span(t) for name, t in self._named(slot).items()}
        facts["shares"] = [name for name, span in inputs.items() if _overlap(mine, span)]
        if any(_overlap(mine, _span(other)) for other in self.held):
            facts["shares"].append("an earlier output")
        self.held = [*self.held[1 - HELD_OUTPUTS :], output]
        return output, facts

    def _dump(self, name: str, tensor: torch.Tensor) -> None:
        """The bytes of `tensor` as they are now, in a file."""
        with torch._C.DisableTorchFunctionSubclass():  # a subclass must not compute anything now
            data = tensor.detach().as_subclass(torch.Tensor).contiguous()
        left = memoryview(data.view(torch.uint8).cpu().flatten().numpy())
        try:
            # Unbuffered, so that a disk that fills up says so here, with its reason.
            with open(self.folder / name, "wb", buffering=0) as file:
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            raise CannotWrite(error) from None

    def _in_use(self) -> dict[str, int]:
        free, total = torch.cuda.mem_get_info()
        return {"torch": torch.cuda.memory_allocated(), "device": total - free}

    def _sync(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
