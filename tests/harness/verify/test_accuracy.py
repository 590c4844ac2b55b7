"""Workloads of any dataset become cases: routing as stored, under whatever key and in whatever file."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from harness.definition import SMALL, load_definition
from harness.paths import Paths
from harness.record import WorkloadInfo
from harness.verify.accuracy import workload_case
from harness.verify.cases import Case, Seeds, Weights, case_from_json, to_json
from harness.verify.exam import References
from harness.verify.inputs import Sizes, make_routing
from harness.verify.references import TooManyChoices

SIZES = Sizes.of(load_definition(Paths().definitions / SMALL).const_axes)
LOGITS = torch.randn(2, SIZES.experts, generator=torch.Generator().manual_seed(1))
BIAS = torch.randn(SIZES.experts, generator=torch.Generator().manual_seed(2))


def case_of(root: Path, **inputs: dict[str, object]) -> Case:
    """The case of a workload with two tokens whose inputs are described so."""
    drawn = {"routing_logits": {"type": "random"}, "routing_bias": {"type": "random"}}
    factor = {"routed_scaling_factor": {"type": "scalar", "value": 2.5}}
    trace = {"workload": {"inputs": {**drawn, **factor, **inputs}}}
    dataset = SimpleNamespace(root=root, traces={"w": trace})
    workload = WorkloadInfo(id="w", seq_len=2, local_expert_offset=32)
    exam = SimpleNamespace(seeds=Seeds(3))
    return workload_case(exam, dataset, workload)  # type: ignore[arg-type]


def stored(path: Path, key: str, tensor: torch.Tensor) -> dict[str, object]:
    save_file({key: tensor}, path)
    return {"type": "safetensors", "path": path.name, "tensor_key": key}


def test_routing_is_what_the_dataset_stores(tmp_path: Path) -> None:
    logits = stored(tmp_path / "a.safetensors", "gate", LOGITS)
    bias = stored(tmp_path / "b.safetensors", "correction", BIAS.bfloat16())
    case = case_of(tmp_path, routing_logits=logits, routing_bias=bias)
    assert case_from_json(to_json(case)) == case and hash(case)
    found = make_routing(case, SIZES)
    assert torch.equal(found[0], LOGITS) and torch.equal(found[1], BIAS.bfloat16().float())


def test_what_it_does_not_store_is_drawn(tmp_path: Path) -> None:
    logits = stored(tmp_path / "a.safetensors", "routing_logits", LOGITS)
    found = make_routing(case_of(tmp_path, routing_logits=logits), SIZES)
    assert torch.equal(found[0], LOGITS)
    assert found[1].shape == (SIZES.experts,) and found[1].std() > 0
    neither = case_of(tmp_path)
    assert neither.routing == "random"


def test_more_ties_than_can_be_computed_are_said(tmp_path: Path) -> None:
    """Such a workload is left out of the accuracy report; it is no fault of a solution."""
    logits = stored(tmp_path / "a.safetensors", "routing_logits", torch.zeros(2, SIZES.experts))
    bias = stored(tmp_path / "b.safetensors", "routing_bias", torch.zeros(SIZES.experts))
    case = case_of(tmp_path, routing_logits=logits, routing_bias=bias)
    with pytest.raises(TooManyChoices):
        References(SIZES, "cpu").expected(Weights(1), case)
