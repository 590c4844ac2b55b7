"""References in float64, with every choice that routing may rightly make where scores tie.

Written apart from the definition's reference.py, which works in float32 and makes one choice; `tests` hold the two
against each other. Only the process that compares imports this module: solutions never see it.
"""

from dataclasses import dataclass
from itertools import combinations

import torch

from harness.verify.cases import Case
from harness.verify.inputs import BLOCK, NUM_GROUPS, TOP_K, Sizes, Tensors

TOP_GROUPS = 4
TIE_MARGIN = 4e-6
"""Scores closer than this, relative to max(1, |score|), may come out in any order: float32 resolves 1e-7, and a sigmoid
and an addition of the bias are rounded."""
MAX_CHOICES = 300  # of one token; more is a case that was made badly
EPSILON = 1e-20  # the definition's, in the normalisation of weights
CACHE_BYTES = 1 << 30

Choice = tuple[int, ...]


class TooManyChoices(ValueError):
    """So many experts tie that not every valid output can be computed."""


@dataclass(frozen=True)
class Expected:
    """What a call may return."""

    values: torch.Tensor
    """[T, H] f64: the outputs under one valid choice for each token."""
    others: dict[int, torch.Tensor]
    """[choices, H] f64 by token: the outputs under its other valid choices."""
    idle: torch.Tensor
    """[T] bool: no local expert under any valid choice, so the output is exactly zero."""


class Reference:
    """Computes expected outputs for one set of weights.

    Args:
        weights: as `inputs.make_weights` gives them.
        equal: all local experts are the same, so choices are told apart by their number of local experts alone.
    """

    def __init__(self, weights: Tensors, sizes: Sizes, equal: bool = False):
        self.tensors = weights
        self._sizes = sizes
        self._equal = equal
        whole = 8 * sizes.local * 3 * sizes.hidden * sizes.inter
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = (
            {} if whole <= CACHE_BYTES else None
        )

    @torch.no_grad()
    def expected(self, case: Case, inputs: Tensors) -> Expected:
        """All outputs that are right for `inputs`, made from `case`.

        Raises:
            TooManyChoices: a token has more valid choices than MAX_CHOICES.
        """
        logits = inputs["routing_logits"].double().cpu()
        bias = inputs["routing_bias"].double().cpu()
        local = range(case.offset, case.offset + self._sizes.local)
        base, unclear = route(logits, bias)
        choices = {
            token: self._distinct(
                valid_choices(logits[token], bias, local if self._equal else None), local
            )
            for token in unclear
        }
        # Every choice is a row of its own: the tokens first, then the further choices of unclear ones.
        owners = list(range(case.tokens))
        rows = base.tolist()
        for token, found in choices.items():
            rows[token] = list(found[0])
            owners += [token] * (len(found) - 1)
            rows += [list(choice) for choice in found[1:]]
        device = inputs["hidden_states"].device
        ids = torch.tensor(rows).view(-1, TOP_K).to(device)
        owner = torch.tensor(owners, dtype=torch.int64, device=device)
        outputs = self._outputs(inputs, owner, ids, case)
        hits = ((ids >= local.start) & (ids < local.stop)).any(dim=1)
        busy = torch.zeros(case.tokens, dtype=torch.bool, device=device).index_fill_(
            0, owner[hits], True
        )
        others: dict[int, list[torch.Tensor]] = {}
        for row in range(case.tokens, len(owners)):
            others.setdefault(owners[row], []).append(outputs[row])
        stacked = {token: torch.stack(found) for token, found in others.items()}
        return Expected(outputs[: case.tokens], stacked, ~busy)

    def _distinct(self, found: list[Choice], local: range) -> list[Choice]:
        """One of each kind: choices that differ in experts of other ranks alone, with equal scores, give one output.

        They are not merged unless their weights must be equal, too, which `equal` cases guarantee.
        """
        if not self._equal:
            return found
        kinds = {sum(expert in local for expert in choice): choice for choice in found}
        return list(kinds.values())

    def _outputs(
        self, inputs: Tensors, owner: torch.Tensor, ids: torch.Tensor, case: Case
    ) -> torch.Tensor:
        """[R, H] f64: row r is token owner[r]'s output if it uses the experts ids[r]."""
        logits = inputs["routing_logits"].double()
        scores = torch.sigmoid(logits)[owner].gather(1, ids)  # [R, TOP_K]
        weights = scores / (scores.sum(dim=1, keepdim=True) + EPSILON) * case.factor
        scale = inputs["hidden_states_scale"].t().double().repeat_interleave(BLOCK, dim=1)
        x = inputs["hidden_states"].double() * scale  # [T, H]
        inter = self._sizes.inter
        output = torch.zeros(len(owner), self._sizes.hidden, dtype=torch.float64, device=x.device)
        for expert in range(self._sizes.local):
            rows, slots = torch.nonzero(ids == case.offset + expert, as_tuple=True)
            if len(rows) == 0:
                continue
            w13, w2 = self._expert(expert)
            up_gate = x[owner[rows]] @ w13.t()
            up, gate = up_gate[:, :inter], up_gate[:, inter:]
            result = (torch.nn.functional.silu(gate) * up) @ w2.t()
            output[rows] += result * weights[rows, slots, None]  # no row has an expert twice
        return output

    def _expert(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """W13 [2I, H] and W2 [H, I] of one expert, dequantised."""
        if self._cache is not None and expert in self._cache:
            return self._cache[expert]
        found = []
        for name in ("gemm1_weights", "gemm2_weights"):
            scale = self.tensors[f"{name}_scale"][expert].double()
            scale = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
            found.append(self.tensors[name][expert].double() * scale)
        pair = (found[0], found[1])
        if self._cache is not None:
            self._cache[expert] = pair
        return pair


def route(logits: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """One valid choice per token, and the tokens that may have others.

    Args:
        logits: [T, E] f64.
        bias: [E] f64.

    Returns:
        ids [T, TOP_K], and the tokens for which a score within TIE_MARGIN of the last chosen one was left out.
    """
    tokens, experts = logits.shape
    choice = torch.sigmoid(logits) + bias
    grouped = choice.view(tokens, NUM_GROUPS, experts // NUM_GROUPS)
    group_scores = grouped.topk(2, dim=-1).values.sum(dim=-1)
    kept = group_scores.topk(TOP_GROUPS, dim=-1).indices
    dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
    candidates = grouped.masked_fill(dropped[:, :, None], float("-inf")).view_as(choice)
    ids = candidates.topk(TOP_K, dim=-1).indices
    unclear = _close_call(group_scores, TOP_GROUPS) | _close_call(candidates, TOP_K)
    return ids, torch.nonzero(unclear).flatten().tolist()


def _close_call(scores: torch.Tensor, places: int) -> torch.Tensor:
    """[T] bool: the first score that is left out lies within the margin of the last that is chosen."""
    top = scores.topk(places + 1, dim=-1).values
    last, next_one = top[:, places - 1], top[:, places]
    return last - next_one <= TIE_MARGIN * last.abs().clamp(min=1.0)


def valid_choices(
    logits: torch.Tensor, bias: torch.Tensor, alike: range | None = None
) -> list[Choice]:
    """Every set of TOP_K experts that one token may use, scores within TIE_MARGIN being equal.

    Args:
        logits: [E] f64.
        bias: [E] f64.
        alike: experts that are copies of one another; then one set for each number of them is enough, of those that share
            a tie.

    Raises:
        TooManyChoices: there are more than MAX_CHOICES.
    """
    choice = (torch.sigmoid(logits) + bias).tolist()
    size = len(choice) // NUM_GROUPS
    members = [range(group * size, (group + 1) * size) for group in range(NUM_GROUPS)]
    group_scores = {
        group: sum(sorted((choice[e] for e in members[group]), reverse=True)[:2])
        for group in range(NUM_GROUPS)
    }
    found: set[Choice] = set()
    for groups in _top_sets(group_scores, TOP_GROUPS):
        candidates = {e: choice[e] for group in groups for e in members[group]}
        if alike is None:
            sets = _top_sets(candidates, TOP_K)
        else:
            sets = _sets_by_number(candidates, TOP_K, alike)
        found.update(tuple(sorted(chosen)) for chosen in sets)
        if len(found) > MAX_CHOICES:
            raise TooManyChoices(f"a token has more than {MAX_CHOICES} valid choices of experts")
    return sorted(found)


def _sure_and_possible(scores: dict[int, float], places: int) -> tuple[list[int], list[int]]:
    """What is chosen in any case, and what shares a tie for the places that are left."""
    last = sorted(scores.values(), reverse=True)[places - 1]
    margin = TIE_MARGIN * max(1.0, abs(last))
    sure = [key for key, score in scores.items() if score > last + margin]
    possible = [key for key, score in scores.items() if abs(score - last) <= margin]
    return sure, possible


def _top_sets(scores: dict[int, float], places: int) -> list[tuple[int, ...]]:
    sure, possible = _sure_and_possible(scores, places)
    rest = combinations(possible, places - len(sure))
    found = []
    for more in rest:
        found.append((*sure, *more))
        if len(found) > MAX_CHOICES:
            raise TooManyChoices(f"a token has more than {MAX_CHOICES} valid choices of experts")
    return found


def _sets_by_number(scores: dict[int, float], places: int, alike: range) -> list[tuple[int, ...]]:
    """One of `_top_sets` for each possible number of experts from `alike` among those that share the tie."""
    sure, possible = _sure_and_possible(scores, places)
    inside = [key for key in possible if key in alike]
    outside = [key for key in possible if key not in alike]
    left = places - len(sure)
    counts = range(max(0, left - len(outside)), min(left, len(inside)) + 1)
    return [(*sure, *inside[:count], *outside[: left - count]) for count in counts]
