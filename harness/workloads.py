"""Workloads: their list, and routing logits constructed to give each one the counts that its row asks for."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from harness.errors import HarnessError
from harness.yamlfile import load_model

NUM_EXPERTS = 256
NUM_LOCAL = 32
GROUP_SIZE = 32
NUM_GROUPS = NUM_EXPERTS // GROUP_SIZE
TOP_GROUPS = 4
TOP_K = 8
SEED = 20260202
SUITES = ("published", "uniform", "sweep", "skewed")
SYNTHETIC_PREFIX = "syn-"

# Scores (sigmoid of the logit) by role; bias stays within +-BIAS. The gaps between the roles exceed 2 * BIAS by far, so
# every choice that routing makes has a clear margin and no rounding of any implementation can change it.
CHOSEN_SCORES = (0.75, 0.95)  # the token's eight experts
RUNNER_UP_SCORES = (
    0.50,
    0.55,
)  # two more in each kept group: the group is kept clearly, the expert is not chosen
OTHER_SCORES = (0.02, 0.12)
BIAS = 0.03


class Workload(BaseModel):
    """One row of a definition's workloads.yaml; the counts are absent where routing is left to chance."""

    model_config = ConfigDict(extra="forbid", strict=True)

    uuid: str
    seq_len: int = Field(ge=1)
    """Number of tokens T."""
    local_expert_offset: int = Field(ge=0, le=NUM_EXPERTS - NUM_LOCAL)
    local_pairs: int | None = None
    local_tokens: int | None = None
    active_experts: int | None = None

    @property
    def synthetic_id(self) -> str:
        """Id of the synthetic stand-in, which must never pass for the real workload."""
        return SYNTHETIC_PREFIX + self.uuid.split("-")[0] if _is_uuid(self.uuid) else self.uuid


class WorkloadFile(BaseModel):
    """`definitions/<name>/workloads.yaml`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    routed_scaling_factor: float
    workloads: list[Workload] = Field(min_length=1)


@dataclass(frozen=True)
class Routing:
    """What decides a workload's routing."""

    logits: np.ndarray
    """[T, NUM_EXPERTS] float32."""
    bias: np.ndarray
    """[NUM_EXPERTS] float32; becomes bfloat16 without loss."""


def _is_uuid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4


def load_workloads(folder: Path) -> WorkloadFile:
    """Read `folder`/workloads.yaml.

    Raises:
        HarnessError: absent, or a key is missing, unknown or wrong.
    """
    return load_model(folder / "workloads.yaml", WorkloadFile, what="workload list")


def suite(file: WorkloadFile, name: str) -> list[Workload]:
    """The workloads of one suite of the synthetic dataset.

    published: the rows of the file, with their counts. uniform: the same T and offsets, plain random logits. sweep: T
    from 1 to 16384, plain random logits. skewed: experts of very different popularity.

    Raises:
        HarnessError: no such suite.
    """
    rows = file.workloads
    if name == "published":
        return rows
    if name == "uniform":
        return [
            _free(
                f"uniform-{w.uuid.split('-')[0] if _is_uuid(w.uuid) else w.uuid}",
                w.seq_len,
                w.local_expert_offset,
            )
            for w in rows
        ]
    if name in ("sweep", "skewed"):
        sizes = sorted({2**i for i in range(15)} | {3, 17, 65, 129, 1000, 5000})
        if max(w.seq_len for w in rows) < 1000:  # the CPU sibling
            sizes = [t for t in sizes if t <= 129]
        # Offsets that are and are not multiples of 32, from both ends of the range.
        offsets = (0, 32, 77, 128, 201, 224)
        return [_free(f"{name}-{t}", t, offsets[i % len(offsets)]) for i, t in enumerate(sizes)]
    raise HarnessError(f"SUITE: no suite is called '{name}'; there are: {', '.join(SUITES)}")


def _free(uuid: str, seq_len: int, offset: int) -> Workload:
    return Workload(uuid=uuid, seq_len=seq_len, local_expert_offset=offset)


def make_routing(workload: Workload, seed: int = SEED) -> Routing:
    """Routing inputs of one workload, deterministic in its id and `seed`.

    Raises:
        HarnessError: the row's counts contradict each other.
    """
    digest = hashlib.sha256(f"{seed}/{workload.uuid}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    if workload.local_pairs is None:
        return _random_routing(workload, rng)
    local = _place_pairs(workload, rng)  # [T, NUM_LOCAL] bool
    chosen, kept = _complete_choice(local, workload.local_expert_offset, rng)
    return Routing(_logits_for(chosen, kept, rng), _bfloat16(rng.uniform(-BIAS, BIAS, NUM_EXPERTS)))


def _random_routing(workload: Workload, rng: np.random.Generator) -> Routing:
    logits = rng.standard_normal((workload.seq_len, NUM_EXPERTS), dtype=np.float32)
    if workload.uuid.startswith("skewed"):
        # A popularity per expert wide enough that a few experts take most tokens, as with an untrained router.
        logits += 1.5 * rng.standard_normal(NUM_EXPERTS).astype(np.float32)
    return Routing(logits, _bfloat16(0.1 * rng.standard_normal(NUM_EXPERTS)))


def _place_pairs(workload: Workload, rng: np.random.Generator) -> np.ndarray:
    """Choose local experts for tokens: [T, NUM_LOCAL] bool with exactly the row's three counts."""
    tokens, pairs, active = workload.local_tokens, workload.local_pairs, workload.active_experts
    if tokens is None or active is None or pairs is None:
        raise HarnessError(f"workloads.yaml: {workload.uuid}: give all of the three counts or none")
    most = min(TOP_K, active)
    fits = (
        tokens <= workload.seq_len
        and tokens <= pairs <= tokens * most
        and active <= min(pairs, NUM_LOCAL)
    )
    if not fits:
        raise HarnessError(
            f"workloads.yaml: {workload.uuid}: {pairs} pairs of {tokens} tokens with {active} experts cannot be; "
            f"a token has 1 to {most} local experts"
        )
    choice = np.zeros((workload.seq_len, NUM_LOCAL), dtype=bool)
    if pairs == 0:
        return choice

    experts = rng.permutation(NUM_LOCAL)[:active]
    per_token = _split(pairs, tokens, most, rng)  # experts of each local token
    # Popular and unpopular experts, as in real routing: a token takes its highest of popularity + noise.
    appeal = rng.normal(0, 0.5, active) + rng.gumbel(size=(tokens, active))
    rank = np.argsort(np.argsort(-appeal, axis=1), axis=1)
    picked = rank < per_token[:, None]  # [tokens, active]
    for expert in np.flatnonzero(~picked.any(axis=0)):
        # Nobody took this one: a token that has another, well-covered expert swaps it in.
        spare = picked.sum(axis=0) > 1
        token = np.flatnonzero((picked & spare).any(axis=1) & ~picked[:, expert])[0]
        picked[token, np.flatnonzero(picked[token] & spare)[0]] = False
        picked[token, expert] = True

    rows = rng.permutation(workload.seq_len)[:tokens]
    choice[np.ix_(rows, experts)] = picked
    return choice


def _split(total: int, parts: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """`parts` integers from 1 to `most` that add up to `total`."""
    slots = rng.permutation(np.repeat(np.arange(parts), most - 1))[: total - parts]
    return 1 + np.bincount(slots, minlength=parts)


def _complete_choice(
    local: np.ndarray, offset: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Add experts of other ranks until every token has TOP_K, in exactly TOP_GROUPS groups.

    Returns:
        chosen experts [T, NUM_EXPERTS] bool and kept groups [T, NUM_GROUPS] bool.
    """
    num_tokens = local.shape[0]
    chosen = np.zeros((num_tokens, NUM_EXPERTS), dtype=bool)
    chosen[:, offset : offset + NUM_LOCAL] = local

    # Groups with a chosen local expert are kept for sure; the rest of the four are drawn, from groups that have experts
    # of other ranks to offer.
    used = chosen.reshape(num_tokens, NUM_GROUPS, GROUP_SIZE).any(axis=2)
    is_remote = np.ones(NUM_EXPERTS, dtype=bool)
    is_remote[offset : offset + NUM_LOCAL] = False
    offers = is_remote.reshape(NUM_GROUPS, GROUP_SIZE).any(axis=1)
    draw = rng.random((num_tokens, NUM_GROUPS)) + used * 2.0 - ~offers * 1.0
    kept = np.argsort(np.argsort(-draw, axis=1), axis=1) < TOP_GROUPS

    missing = TOP_K - local.sum(axis=1)
    allowed = np.repeat(kept, GROUP_SIZE, axis=1) & is_remote
    appeal = np.where(allowed, rng.random((num_tokens, NUM_EXPERTS)), -1.0)
    rank = np.argsort(np.argsort(-appeal, axis=1), axis=1)
    chosen |= rank < missing[:, None]
    return chosen, kept


def _logits_for(chosen: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Logits whose routing is `chosen`: [T, NUM_EXPERTS] float32."""
    shape = chosen.shape
    scores = rng.uniform(*OTHER_SCORES, shape)
    spare = np.where(chosen, -1.0, rng.random(shape)).reshape(-1, NUM_GROUPS, GROUP_SIZE)
    rank = np.argsort(np.argsort(-spare, axis=2), axis=2)
    runner_up = ((rank < 2) & kept[:, :, None]).reshape(shape) & ~chosen
    scores = np.where(runner_up, rng.uniform(*RUNNER_UP_SCORES, shape), scores)
    scores = np.where(chosen, rng.uniform(*CHOSEN_SCORES, shape), scores)
    return np.log(scores / (1 - scores)).astype(np.float32)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Cut float32 values down to what bfloat16 can hold."""
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)
