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
from flashinfer_bench.compile import BuilderRegistry, BuildError

from harness.verify import snapshot
from harness.verify.caller import CannotWrite
from harness.verify.cases import case_from_json, weights_from_json
from harness.verify.gpu_commands import GpuCommands
from harness.verify.inputs import (
    WEIGHT_NAMES,
    checksum,
    limit_threads,
    make_activations,
    make_weights,
)
from harness.verify.protocol import ChildEnd, Message

FINITE = 0x78
"""Bytes below this are finite values of FP8, and of any type in its lowest two bytes."""


class Child(GpuCommands):
    """Carries out commands, each a method `do_<op>`: those that need a GPU, and here those that run anywhere."""

    def do(self, command: Message) -> Message:
        """Carry out one command; the answer's content."""
        return getattr(self, f"do_{command.pop('op')}")(**command)

    def do_ready(self, mark: str) -> Message:
        """Give `mark` back: everything is imported."""
        return {"mark": mark}

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

    def do_calls(self, slot: str, calls: int) -> Message:
        """Calls on the same tensors, and nothing else."""
        for _ in range(calls):
            self._invoke(self.slots[slot], poison=False)
        self._sync()
        return {}

    def do_burst(self, slot: str, calls: int, fresh: bool) -> Message:
        """Calls on the same tensors, into whose first bytes something is written each time, the weights' as well; `fresh`: what
        they never held before."""
        # Of every input, whichever a solution keeps things by; else the same work with the same bytes. No byte of FP8 is NaN.
        heads = [t.view(torch.uint8).flatten()[:2] for t in self._named(slot).values()]
        numbers = [self.burst_marks + index * fresh for index in range(calls)]
        marks = torch.tensor([[n % FINITE, n // FINITE] for n in numbers], dtype=torch.uint8)
        for mark in marks.to(self.device):
            for head in heads:
                head.copy_(mark)
            self._invoke(self.slots[slot], poison=False)
        self.burst_marks += calls
        self._sync()
        return {}

    def do_facts(self) -> Message:
        """Changed functions, and Python threads beyond those of before."""
        return {
            "changed": snapshot.changes(self.functions, snapshot.take()),
            "threads": len(sys._current_frames()) - self.threads,
            "thread_names": [thread.name for thread in threading.enumerate()],
        }


def main(folder: Path, root: Path, definition: str, solution: str, device: str) -> None:
    """Serve commands until the parent closes the pipe."""
    end = ChildEnd(folder)
    limit_threads(device)
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
