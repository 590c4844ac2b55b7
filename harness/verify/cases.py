"""Cases: the inputs of a call as data, so that parent and child can make the same tensors."""

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

ROUTINGS = (
    "random",
    "no_local",
    "one_expert",
    "all_local",
    "half_local",
    "tie_experts",
    "tie_groups",
    "tie_all",
    "saturated",
    "all_low",
    "large_bias",
    "dataset",
)
"""What a case's routing looks like; `inputs.make_routing` says how each is made."""
SCALES = ("normal", "tiny", "huge", "mixed", "negative")
"""What the activations' block scales look like."""


@dataclass(frozen=True)
class Edit:
    """One row of one tensor is drawn anew."""

    tensor: str
    row: int
    """Index along the tensor's first axis (hidden_states_scale: its last, so that it is a token there, too)."""
    seed: int


@dataclass(frozen=True)
class Weights:
    """One set of expert weights with its block scales."""

    seed: int
    equal: bool = False
    """All local experts are copies of the first: which of them is chosen cannot be seen."""
    edits: tuple[Edit, ...] = ()

    def edited(self, tensor: str, row: int, seed: int) -> "Weights":
        """The same with one expert's `tensor` changed in its first row."""
        return replace(self, edits=(*self.edits, Edit(tensor, row, seed)))


@dataclass(frozen=True)
class Case:
    """Everything but the weights of one call."""

    tokens: int
    """T."""
    offset: int
    """Id of the first local expert."""
    routing: str
    """One of ROUTINGS."""
    seed: int
    scales: str = "normal"
    """One of SCALES."""
    factor: float = 2.5
    """routed_scaling_factor."""
    stored_logits: tuple[str, str] | None = None
    """For routing `dataset`: safetensors file and key of routing_logits."""
    stored_bias: tuple[str, str] | None = None
    """The same of routing_bias; None: drawn as for `random`."""
    edits: tuple[Edit, ...] = ()

    def edited(self, tensor: str, row: int, seed: int) -> "Case":
        """The same with one row of `tensor` changed."""
        return replace(self, edits=(*self.edits, Edit(tensor, row, seed)))

    @property
    def what(self) -> str:
        """The case in a few words, for messages."""
        scales = "" if self.scales == "normal" else f", {self.scales} scales"
        return f"T={self.tokens}, offset {self.offset}, routing {self.routing}{scales}"


def to_json(item: Case | Weights) -> dict[str, Any]:
    """`item` as plain data."""
    return asdict(item)


def case_from_json(data: dict[str, Any]) -> Case:
    """The inverse of `to_json` for a Case."""
    stored = {name: data[name] and tuple(data[name]) for name in ("stored_logits", "stored_bias")}
    return Case(**{**data, **stored, "edits": tuple(Edit(**edit) for edit in data["edits"])})


def weights_from_json(data: dict[str, Any]) -> Weights:
    """The inverse of `to_json` for Weights."""
    return Weights(**{**data, "edits": tuple(Edit(**edit) for edit in data["edits"])})


@dataclass(frozen=True)
class Seeds:
    """All seeds of one run, from one number that is drawn when the run begins."""

    run: int

    def of(self, *name: object) -> int:
        """A seed that belongs to `name`: the same for every solution of the run, another in every run."""
        text = "/".join(map(str, (self.run, *name)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")
