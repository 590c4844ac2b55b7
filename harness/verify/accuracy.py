"""How much of its tolerance a solution spends: its outputs on the run's workloads beside float64."""

import torch

from harness.dataset import Dataset
from harness.record import Accuracy, WorkloadInfo
from harness.verify.cases import Case
from harness.verify.compare import matched_ratio, nearest
from harness.verify.exam import Exam, Failed

SEED_TOLERANCE = (0.2, 0.1)
"""rtol, atol of the documented comparison."""
CONTEST_TOLERANCE = (0.3, 1.0)


def workload_case(exam: Exam, dataset: Dataset, workload: WorkloadInfo) -> Case:
    """The workload's routing with all else drawn as in any case."""
    inputs = dataset.traces[workload.id]["workload"]["inputs"]

    def stored(name: str) -> tuple[str, str] | None:
        spec = inputs[name]
        if spec["type"] != "safetensors":
            return None
        return str((dataset.root / spec["path"]).resolve()), spec["tensor_key"]

    logits, bias = stored("routing_logits"), stored("routing_bias")
    return Case(
        tokens=workload.seq_len,
        offset=workload.local_expert_offset,
        routing="dataset" if logits or bias else "random",
        seed=exam.seeds.of("accuracy", workload.id),
        factor=float(inputs["routed_scaling_factor"]["value"]),
        stored_logits=logits,
        stored_bias=bias,
    )


def measure(exam: Exam, dataset: Dataset, workload: WorkloadInfo) -> Accuracy:
    """Errors of one call on one workload.

    Raises:
        Failed: the output has another size.
        Died, Refused: as for any call.
    """
    case = workload_case(exam, dataset, workload)
    exam.inputs("accuracy", case)
    output = exam.call("accuracy")
    exam.require(output, "accuracy", workload.id)  # a matched ratio alone lets every ninth token go
    output = output.double()
    want = nearest(output, exam.references.expected(exam.weights, case))
    tolerance = (exam.tolerance.rtol, exam.tolerance.atol)
    return describe(output, want, workload.id, tolerance)


def describe(
    output: torch.Tensor, want: torch.Tensor, workload: str, tolerance: tuple[float, float]
) -> Accuracy:
    """The figures for `output` beside `want`, both [T, H] f64; relative errors are relative to max(|want|, 1e-8)."""
    if not torch.isfinite(output).all():
        raise Failed(f"{workload}: the output is not finite")
    error = (output - want).abs()
    norms = output.norm() * want.norm()
    cosine = 1.0 if norms == 0 and error.max() == 0 else float((output * want).sum() / norms)
    return Accuracy(
        workload=workload,
        matched_ratio=matched_ratio(output, want, *tolerance),
        matched_seed=matched_ratio(output, want, *SEED_TOLERANCE),
        matched_contest=matched_ratio(output, want, *CONTEST_TOLERANCE),
        cosine=min(1.0, cosine),
        max_abs_error=float(error.max()),
        max_rel_error=float((error / want.abs().clamp(min=1e-8)).max()),
    )
