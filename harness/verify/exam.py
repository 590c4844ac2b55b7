"""What checks work with: one child, the references, and calls whose outputs are compared."""

from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from harness.record import Status
from harness.verify.cases import Case, Seeds, Weights
from harness.verify.compare import Comparison, Tolerance, compare
from harness.verify.effort import Effort
from harness.verify.inputs import Sizes, Tensors, make_activations, make_weights
from harness.verify.protocol import Message
from harness.verify.references import Expected, Reference
from harness.verify.session import Session

UNFIT = {"shape": Status.INCORRECT_SHAPE, "dtype": Status.INCORRECT_DTYPE}
"""What an output must be before its values can be judged."""
KEPT_WEIGHTS = 8
KEPT_BYTES = 8 << 30  # of expected outputs


class Failed(Exception):
    """A check found a fault; the message says what, in one line.

    Args:
        status: how a benchmark would call it, where the output is none that could be judged.
    """

    def __init__(self, message: str, status: Status | None = None):
        super().__init__(message)
        self.status = status


class NotApplicable(Exception):
    """A check has no meaning here; the message says why."""


class References:
    """Expected outputs by weights and case. Shared by all solutions of a run, never by a child."""

    def __init__(self, sizes: Sizes, device: str):
        self.sizes = sizes
        self.device = device
        self._weights: OrderedDict[Weights, Reference] = OrderedDict()
        self._expected: OrderedDict[tuple[Weights, Case], Expected] = OrderedDict()
        self._bytes = 0

    def weights(self, spec: Weights) -> Reference:
        """The reference for one set of weights."""
        if spec not in self._weights:
            if len(self._weights) >= KEPT_WEIGHTS:
                self._weights.popitem(last=False)
            tensors = make_weights(spec, self.sizes, self.device)
            self._weights[spec] = Reference(tensors, self.sizes, spec.equal)
        self._weights.move_to_end(spec)
        return self._weights[spec]

    def activations(self, case: Case) -> Tensors:
        """The case's inputs, made here."""
        return make_activations(case, self.sizes, self.device)

    def expected(self, spec: Weights, case: Case) -> Expected:
        """What a call on `case` with `spec` may return."""
        key = (spec, case)
        if key not in self._expected:
            found = self.weights(spec).expected(case, self.activations(case))
            self._expected[key] = found
            self._bytes += _size(found)
            while self._bytes > KEPT_BYTES and len(self._expected) > 1:
                self._bytes -= _size(self._expected.popitem(last=False)[1])
        self._expected.move_to_end(key)
        return self._expected[key]


@dataclass
class Exam:
    """One solution under examination."""

    session: Session
    references: References
    tolerance: Tolerance
    effort: Effort
    seeds: Seeds
    floor_us: dict[int, float] = field(default_factory=dict)
    """Physical floor by number of tokens, of the cases that `timed_case` makes; empty without a GPU."""
    violations: list[str] = field(default_factory=list)
    """What calls said about their outputs that no output may be."""
    slots: dict[str, tuple[Case, Weights]] = field(default_factory=dict)
    weights: Weights = field(default_factory=lambda: Weights(0))
    """Contents of the weights in use."""

    @property
    def on_gpu(self) -> bool:
        return self.references.device != "cpu"

    def case(
        self,
        tokens: int,
        *name: object,
        offset: int = 32,
        routing: str = "random",
        scales: str = "normal",
        factor: float = 2.5,
    ) -> Case:
        """A case whose seed belongs to `name` in this run."""
        seed = self.seeds.of(tokens, offset, routing, scales, *name)
        return Case(tokens, offset, routing, seed, scales, factor)

    def set_weights(self, spec: Weights, in_place: bool = False) -> None:
        """Use other weights from now on; `in_place`: at the same addresses."""
        self.session.weights("w", spec, in_place)
        self.weights = spec
        if in_place:
            self.slots = {slot: (case, spec) for slot, (case, _) in self.slots.items()}
        else:
            self.slots = {}

    def inputs(self, slot: str, case: Case, in_place: bool = False) -> None:
        """Make a slot's inputs at new addresses, or give its tensors new contents."""
        self.session.inputs(slot, case, "w", in_place)
        self.slots[slot] = (case, self.weights)

    def call(self, slot: str) -> torch.Tensor:
        """Call on a slot; [T, H] bf16 as the child handed it over.

        Raises:
            Failed: it is no output of this shape.
        """
        file = self.session.file()
        facts = self.session.ask("call", slot=slot, file=file)
        self.note(facts, slot)
        for key, status in UNFIT.items():
            if facts.get(key) != (wanted := self._wanted(slot)[key]):
                raise Failed(f"the output's {key} is {facts.get(key)}, not {wanted}", status)
        return self.take(file, slot)

    def take(self, file: str, slot: str, calls: int = 1) -> torch.Tensor:
        """An output that the child wrote, [calls x T, H] bf16.

        Raises:
            Failed: it has another size.
        """
        case, _ = self.slots[slot]
        shape = (calls * case.tokens, self.references.sizes.hidden)
        raw = self.session.read(file, torch.uint8)
        if raw.numel() != 2 * shape[0] * shape[1]:
            raise Failed(
                f"{case.what}: the output has {raw.numel()} bytes, not those of {list(shape)} bfloat16"
            )
        return raw.view(torch.bfloat16).view(shape).to(self.references.device)

    def compare(self, output: torch.Tensor, slot: str) -> Comparison:
        """`output` beside what is expected of a slot's present inputs."""
        case, weights = self.slots[slot]
        return compare(output, self.references.expected(weights, case), self.tolerance)

    def require(self, output: torch.Tensor, slot: str, what: str) -> None:
        """Raises Failed, with `what` and the case, unless `output` is right."""
        found = self.compare(output, slot)
        if not found.ok:
            raise Failed(f"{what} ({self.slots[slot][0].what}): {found.reason}")

    def right(self, slot: str, what: str) -> torch.Tensor:
        """Call on a slot and require that the output is right; returns it."""
        output = self.call(slot)
        self.require(output, slot, what)
        return output

    def fresh(self, case: Case, what: str, slot: str = "a") -> torch.Tensor:
        """`right` on inputs at new addresses."""
        self.inputs(slot, case)
        return self.right(slot, what)

    def note(self, facts: Message, slot: str) -> None:
        """Keep what a call on a slot said of its output that no output may be."""
        for key, value in self._wanted(slot).items():
            if facts.get(key) != value:
                self.violations.append(f"the output's {key} is {facts.get(key)}, not {value}")
        if not facts.get("contiguous"):
            self.violations.append("the output is not contiguous")
        if facts.get("moved"):
            self.violations.append("the output's memory was replaced by other memory")
        for name in facts.get("shares") or []:
            self.violations.append(f"the output shares memory with {name}")
        if facts.get("threads", 0) > 0:
            self.violations.append(f"{facts['threads']} new threads at return")

    def _wanted(self, slot: str) -> Message:
        """What an output of a call on the slot says of itself."""
        return {
            "type": "torch.Tensor",
            "shape": [self.slots[slot][0].tokens, self.references.sizes.hidden],
            "dtype": "torch.bfloat16",
            "device": self.references.device,
            "layout": "torch.strided",
        }


def _size(expected: Expected) -> int:
    return sum(8 * t.numel() for t in (expected.values, *expected.others.values()))
