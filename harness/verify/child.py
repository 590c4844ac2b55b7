"""The child: loads one solution and does what the parent says, one command at a time.

    python -m harness.verify.child FOLDER ROOT DEFINITION SOLUTION DEVICE

FOLDER holds the pipes and takes the outputs; ROOT is a staged dataset root with that solution. The child makes inputs from
seeds that the parent chose a moment ago, calls, and writes out every output as it is. It holds no expected value, judges
nothing, and what it says about itself is a hint for the parent.
"""

import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch
from flashinfer_bench.bench import timing
from flashinfer_bench.bench import utils as _utils  # noqa: F401
from flashinfer_bench.bench.evaluators import default as _default  # noqa: F401
from flashinfer_bench.bench.evaluators import utils as _evaluators  # noqa: F401 - watched by the snapshot
from flashinfer_bench.compile import BuilderRegistry, BuildError, Runnable
from flashinfer_bench.data import TraceSet

from harness.verify import snapshot
from harness.verify.cases import case_from_json, weights_from_json
from harness.verify.inputs import (
    ACTIVATION_NAMES,
    WEIGHT_NAMES,
    Sizes,
    Tensors,
    checksum,
    make_activations,
    make_weights,
)
from harness.verify.protocol import OUTPUTS, ChildEnd, Message

BF16_NAN = 0xFF  # every byte of a poisoned output
HELD_OUTPUTS = (
    8  # earlier outputs that are kept alive, to see whether a later one shares their memory
)
POISON_SIZES = {"cpu": range(9, 25), "cuda": range(9, 29)}
"""log2 of the blocks that are filled with NaN and freed before a call, by type of device."""
FLUSH_BYTES = 256 << 20  # more than any L2


class CannotWrite(Exception):
    """No room for an output: nothing that the solution did."""

    def __init__(self, error: OSError):
        super().__init__(str(error))
        self.errno = error.errno


class Child:
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
        self.runnable: Runnable | None = None
        self.functions = snapshot.take()
        self.threads = len(sys._current_frames())

    def do(self, command: Message) -> Message:
        """Carry out one command; the answer's content."""
        return getattr(self, f"do_{command.pop('op')}")(**command)

    def do_build(self) -> Message:
        """Build the solution as flashinfer-bench does."""
        try:
            self.runnable = BuilderRegistry.get_instance().build(self.definition, self.solution)
        except BuildError:
            return {"error": traceback.format_exc()}
        return {}

    def do_weights(self, name: str, spec: dict[str, Any], in_place: bool = False) -> Message:
        """Make a set of weights, or give an existing one new contents at its old addresses."""
        fresh = make_weights(weights_from_json(spec), self.sizes, self.device)
        if in_place:
            for key, tensor in fresh.items():
                self.weights[name][key].view(torch.uint8).copy_(tensor.view(torch.uint8))
        else:
            self.weights[name] = fresh
        self._sync()
        return {}

    def do_inputs(
        self, slot: str, case: dict[str, Any], weights: str, in_place: bool = False
    ) -> Message:
        """Make the inputs of a call at new addresses, or give a slot's tensors new contents."""
        parsed = case_from_json(case)
        fresh = make_activations(parsed, self.sizes, self.device)
        if in_place:
            old = self._named(slot)
            for key, tensor in fresh.items():
                old[key].view(torch.uint8).copy_(tensor.view(torch.uint8))
            fresh = {key: old[key] for key in fresh}
        self.slots[slot] = self._arguments(fresh, weights, parsed.offset, parsed.factor)
        self._sync()
        return {}

    def do_move(self, slot: str, weights_too: bool) -> Message:
        """The same contents at new addresses; the old memory gets other contents and stays in use."""
        old = [value for value in self.slots[slot] if isinstance(value, torch.Tensor)]
        keep = [] if weights_too else list(WEIGHT_NAMES)
        named = self._named(slot)
        moved = {name: tensor if name in keep else tensor.clone() for name, tensor in named.items()}
        for name, tensor in named.items():
            if name not in keep:
                tensor.view(torch.uint8).bitwise_xor_(0x80)  # flips signs: finite, and wrong
        self.moved_from = old
        scalars = self.slots[slot][-2:]
        self.slots[slot] = [*(moved[name] for name in self._order()), *scalars]
        if weights_too:
            for tensors in self.weights.values():
                if tensors["gemm1_weights"] is named["gemm1_weights"]:
                    tensors.update({name: moved[name] for name in WEIGHT_NAMES})
        self._sync()
        return {}

    def do_call(self, slot: str, file: str, twice: bool = False) -> Message:
        """Call once and write the output; `twice`: hold it, call again with other memory, and write it only then."""
        output, facts = self._call(slot)
        if twice:
            again, _ = self._call(slot)
            self._dump(f"{file}-again", again)
        self._dump(file, output)
        return facts

    def do_dump_inputs(self, slot: str, file: str, names: list[str]) -> Message:
        """Write a slot's inputs as they are now."""
        self._sync()
        for name in names:
            self._dump(f"{file}-{name}", self._named(slot)[name])
        return {}

    def do_checksums(self, slot: str, names: list[str], seed: int) -> Message:
        """Checksums of a slot's inputs as they are now, by name."""
        self._sync()
        named = self._named(slot)
        return {"sums": {name: checksum(named[name], seed) for name in names}}

    def do_loop(self, slot: str, file: str, warmup: int, calls: int) -> Message:
        """What a timing loop does: call after call on clones of the same inputs. All outputs are written, one after another."""
        shape = self._named(slot)["hidden_states"].shape
        kept = torch.empty((calls, *shape), dtype=torch.bfloat16, device=self.device)
        for index in range(warmup + calls):
            args = [v.clone() if isinstance(v, torch.Tensor) else v for v in self.slots[slot]]
            # Copied, not held: the memory comes round again as in flashinfer-bench's loop, also for whoever goes by it.
            output, _ = self._invoke(args, poison=index < warmup)
            if index >= warmup:
                kept[index - warmup].copy_(output)
        self._sync()
        self._dump(file, kept)
        return {}

    def do_burst(self, slot: str, calls: int, factor: float) -> Message:
        """Calls on the same tensors whose scales are multiplied by `factor` before each: 1.0 leaves their contents."""
        named = self._named(slot)
        for _ in range(calls):
            named["hidden_states_scale"].mul_(factor)
            named["gemm1_weights_scale"].mul_(factor)
            self._invoke(self.slots[slot], poison=False)
        self._sync()
        return {}

    def do_facts(self) -> Message:
        """Changed functions, and Python threads beyond those of before."""
        return {
            "changed": snapshot.changes(self.functions, snapshot.take()),
            "threads": len(sys._current_frames()) - self.threads,
            "thread_names": [thread.name for thread in threading.enumerate()],
        }

    # What needs a GPU.

    def do_streams(self, slots: list[str], file: str, mode: str, rounds: int) -> Message:
        """Calls whose inputs arrive in stream order only, with outputs copied in stream order at once.

        The tensors hold wrong contents until copies that are queued behind a long kernel restore them, so work on any other
        stream, or read on the host, sees the wrong ones. For each call two outputs are written: a copy taken on the stream
        at return, and the output itself after everything ended.

        Args:
            mode: `current`: on the default stream; `side`: on another one; `two`: alternating between two.
        """
        current = torch.cuda.current_stream()
        streams = [current] if mode == "current" else [torch.cuda.Stream() for _ in slots]
        right = [
            [v.clone() if isinstance(v, torch.Tensor) else v for v in self.slots[s]] for s in slots
        ]
        pairs: list[list[torch.Tensor]] = []
        for slot in slots:
            self._invoke(
                self.slots[slot], poison=False
            )  # compiled and cached before the race begins
        # Every other call writes to one and the same output, so that what is kept by address, such as a graph, runs as well.
        again = [self._poisoned(self.slots[slot]) for slot in slots]
        self._sync()
        for round_ in range(rounds):
            for index, slot in enumerate(slots):
                stream = streams[index % len(streams)]
                names = dict(zip(self._order(), self.slots[slot], strict=False))
                stored = dict(zip(self._order(), right[index], strict=False))
                if round_ == 0:
                    for name in ACTIVATION_NAMES:
                        names[name].view(torch.uint8).bitwise_xor_(0x80)
                    self._sync()
                with torch.cuda.stream(stream):
                    if round_ == 0:
                        torch.cuda._sleep(20_000_000)  # about ten milliseconds
                        for name in ACTIVATION_NAMES:
                            names[name].view(torch.uint8).copy_(stored[name].view(torch.uint8))
                    given = again[index] if round_ % 2 else None
                    output, _ = self._invoke(self.slots[slot], poison=True, given=given)
                    pairs.append([output.clone(), output if given is None else output.clone()])
        self._sync()
        for index, (early, late) in enumerate(pairs):
            self._dump(f"{file}-{index}-early", early)
            self._dump(f"{file}-{index}-late", late)
        return {"calls": len(pairs)}

    def do_memory(self, slot: str, calls: int) -> Message:
        """Bytes in use on the device after a tenth of `calls` calls and after all of them."""
        for index in range(calls):
            if index == calls // 10:
                self._sync()
                before = self._in_use()
            self._invoke(self.slots[slot], poison=False)
        self._sync()
        return {"before": before, "after": self._in_use()}

    def do_time(self, slot: str, warmup: int, calls: int, file: str) -> Message:
        """Milliseconds of each call between events, inputs cloned and then L2 flushed; the outputs are written."""
        flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.device)
        shape = self._named(slot)["hidden_states"].shape
        kept = torch.empty((calls, *shape), dtype=torch.bfloat16, device=self.device)
        times = []
        for index in range(warmup + calls):
            args = [v.clone() if isinstance(v, torch.Tensor) else v for v in self.slots[slot]]
            args.append(self._poisoned(args))
            flush.fill_(index % 100)
            self._sync()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            output = self._raw(args)
            end.record()
            self._sync()
            if index >= warmup:
                times.append(start.elapsed_time(end))
                kept[index - warmup].copy_(output)
        self._sync()
        self._dump(file, kept)
        return {"ms": times}

    def do_time_flashinfer_bench(self, slot: str, warmup: int, calls: int) -> Message:
        """Mean milliseconds of a call by flashinfer-bench's own timer."""
        args = list(self.slots[slot])
        if self.runnable.metadata.destination_passing_style:
            args.append(self._poisoned(args))
        return {"ms": timing.time_runnable(self.runnable, args, warmup, calls, self.device)}

    def do_time_cupti(self, slot: str, calls: int) -> Message:
        """Microseconds of each call in which at least one kernel ran, by CUPTI through torch's profiler; empty without it."""
        # Not torch.profiler's: that imports torch._inductor, which replaces torch.manual_seed and takes seconds.
        from torch.autograd.profiler import profile

        busy = []
        for _ in range(calls):
            args = [v.clone() if isinstance(v, torch.Tensor) else v for v in self.slots[slot]]
            args.append(self._poisoned(args))
            self._sync()
            try:
                with profile(use_cpu=False, use_device="cuda", use_kineto=True) as recorded:
                    self._raw(args)
                    self._sync()
            except (RuntimeError, AssertionError):
                # CUPTI is absent, in use elsewhere or not permitted here.
                return {"us": []}
            ranges = [
                (event.time_range.start, event.time_range.end)
                for event in recorded.function_events or []
                if event.device_type.name == "CUDA"
            ]
            if ranges:
                busy.append(_covered(ranges))
        return {"us": busy}

    # Helpers.

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
        raw = data.view(torch.uint8).cpu().numpy()
        try:
            raw.tofile(self.folder / name)
        except OSError as error:
            raise CannotWrite(error) from None

    def _in_use(self) -> dict[str, int]:
        free, total = torch.cuda.mem_get_info()
        return {"torch": torch.cuda.memory_allocated(), "device": total - free}

    def _sync(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def _covered(ranges: list[tuple[float, float]]) -> float:
    """Length of the union of `ranges`: kernels may overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def main(folder: Path, root: Path, definition: str, solution: str, device: str) -> None:
    """Serve commands until the parent closes the pipe."""
    end = ChildEnd(folder)
    if device == "cpu":
        torch.set_num_threads(1)
    child = Child(folder, root, definition, solution, device)
    while (command := end.receive()) is not None:
        try:
            answer = child.do(command)
        except CannotWrite as error:
            answer = {"cannot_write": error.errno}
        except Exception as error:
            traceback.print_exception(error, file=sys.stdout)
            sys.stdout.flush()
            # Its first line: torch and Triton go on with advice or source code.
            said = traceback.format_exception_only(error)[-1].splitlines()[0]
            answer = {"error": said, "over": not child.can_go_on()}
        end.answer(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5])
