"""The routing generator: exact counts, clear margins, determinism, speed."""

import time

import numpy as np
import pytest
import torch

from harness.definition import FULL, SMALL, load_definition
from harness.errors import HarnessError
from harness.paths import PROJECT
from harness.workloads import SUITES, Workload, load_workloads, make_routing, suite

ROWS = [
    pytest.param(name, row, id=f"{name[-5:]}-{row.uuid[:8]}")
    for name in (FULL, SMALL)
    for row in load_workloads(PROJECT / "definitions" / name).workloads
]
ROUTE = load_definition(PROJECT / "definitions" / SMALL).reference_module().route


def choices(row: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with bias [T, 256] and chosen expert ids [T, 8]."""
    routing = make_routing(row)
    logits = torch.from_numpy(routing.logits)
    bias = torch.from_numpy(routing.bias).bfloat16()
    assert torch.equal(
        bias.float(), torch.from_numpy(routing.bias)
    )  # no loss on the way into the dataset
    return torch.sigmoid(logits) + bias.float(), ROUTE(logits, bias, 1.0)[0]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_counts_are_exact_and_margins_clear(name: str, row: Workload) -> None:
    scores, ids = choices(row)
    local = (ids >= row.local_expert_offset) & (ids < row.local_expert_offset + 32)
    counts = int(local.sum()), int(local.any(dim=1).sum()), len(ids[local].unique())
    assert counts == (row.local_pairs, row.local_tokens, row.active_experts)

    groups = scores.view(-1, 8, 32).topk(2, dim=-1).values.sum(-1)
    ordered = groups.sort(dim=1, descending=True).values
    assert (ordered[:, 3] - ordered[:, 4]).min() > 0.1
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(
        1, groups.topk(4, dim=1).indices, True
    )
    among = scores.masked_fill(~kept.repeat_interleave(32, dim=1), -9)
    ordered = among.sort(dim=1, descending=True).values
    assert (ordered[:, 7] - ordered[:, 8]).min() > 0.1


def test_published_rows() -> None:
    rows = load_workloads(PROJECT / "definitions" / FULL).workloads
    assert [r.seq_len for r in rows] == [
        *(1, 7, 14, 15, 16, 32, 52, 53, 54, 55, 56, 57, 58, 59, 62, 80, 901, 11948, 14107)
    ]
    assert len({r.uuid for r in rows}) == 19
    assert not {r.uuid for r in rows} & {r.synthetic_id for r in rows}
    assert rows[0].synthetic_id == "syn-e05c6c03"


def test_deterministic_and_fast() -> None:
    row = load_workloads(PROJECT / "definitions" / FULL).workloads[-1]
    start = time.perf_counter()
    first, again = make_routing(row), make_routing(row)
    assert time.perf_counter() - start < 20
    assert np.array_equal(first.logits, again.logits) and np.array_equal(first.bias, again.bias)
    assert not np.array_equal(first.logits, make_routing(row, seed=1).logits)


@pytest.mark.parametrize("name", SUITES)
def test_suites(name: str) -> None:
    rows = suite(load_workloads(PROJECT / "definitions" / FULL), name)
    assert len({r.synthetic_id for r in rows}) == len(rows)
    routing = make_routing(rows[0])
    assert routing.logits.shape == (rows[0].seq_len, 256) and routing.logits.dtype == np.float32
    if name in ("sweep", "skewed"):
        assert {1, 16384} <= {r.seq_len for r in rows}
        assert any(r.local_expert_offset % 32 for r in rows)


def test_uniform_routing_is_plain() -> None:
    rows = suite(load_workloads(PROJECT / "definitions" / FULL), "uniform")
    logits = make_routing(rows[-1]).logits
    assert abs(logits.mean()) < 0.01 and abs(logits.std() - 1) < 0.01


def test_skewed_routing_is_skewed() -> None:
    row = next(
        r
        for r in suite(load_workloads(PROJECT / "definitions" / FULL), "skewed")
        if r.seq_len == 4096
    )
    counts = choices(row)[1].flatten().bincount(minlength=256).sort(descending=True).values
    assert counts[:32].sum() > 0.5 * counts.sum()


@pytest.mark.parametrize(
    "row",
    [
        Workload(
            uuid="x",
            seq_len=4,
            local_expert_offset=0,
            local_pairs=33,
            local_tokens=4,
            active_experts=9,
        ),
        Workload(
            uuid="x",
            seq_len=4,
            local_expert_offset=0,
            local_pairs=3,
            local_tokens=4,
            active_experts=1,
        ),
        Workload(
            uuid="x",
            seq_len=4,
            local_expert_offset=0,
            local_pairs=3,
            local_tokens=2,
            active_experts=4,
        ),
        Workload(
            uuid="x",
            seq_len=4,
            local_expert_offset=0,
            local_pairs=9,
            local_tokens=5,
            active_experts=4,
        ),
        Workload(uuid="x", seq_len=4, local_expert_offset=0, local_pairs=3),
    ],
)
def test_contradicting_counts_are_refused(row: Workload) -> None:
    with pytest.raises(HarnessError, match=r"workloads.yaml: x: "):
        make_routing(row)


def test_unknown_suite() -> None:
    with pytest.raises(HarnessError, match="no suite is called 'swep'; there are: published"):
        suite(load_workloads(PROJECT / "definitions" / SMALL), "swep")
