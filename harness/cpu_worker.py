"""Runs one solution on the CPU and compares it with the reference: the child process of the CPU backend.

    python -m harness.cpu_worker ROOT DEFINITION SOLUTION PROFILE_JSON RESULTS

ROOT is a staged dataset root; one cell per workload is appended to RESULTS as a line of JSON. Inputs, building and error
measure are flashinfer-bench's own functions.
"""

import errno
import os
import sys
import traceback
import zlib
from pathlib import Path
from typing import Any

import torch
from flashinfer_bench.bench import BenchmarkConfig
from flashinfer_bench.bench.evaluators.utils import allocate_outputs, normalize_result
from flashinfer_bench.bench.utils import compute_error_stats, gen_inputs, load_safetensors
from flashinfer_bench.compile import BuilderRegistry, BuildError, Runnable
from flashinfer_bench.data import Definition, TraceSet, Workload

from harness.cells import reason_for, tail
from harness.cpu import CANNOT_WRITE
from harness.manifest import COMPILED_LANGUAGES
from harness.profile import Profile
from harness.record import Cell, Status

DEVICE = "cpu"


def main(
    root: Path, definition_name: str, solution_name: str, profile: Profile, results: Path
) -> None:
    """Run every workload of ROOT and append the cells to RESULTS."""
    trace_set = TraceSet.from_path(str(root))
    definition = trace_set.definitions[definition_name]
    workloads = [trace.workload for trace in trace_set.workloads[definition_name]]
    solution = trace_set.get_solution(solution_name)
    results.touch()  # the parent's limit per workload counts from here
    registry = BuilderRegistry.get_instance()
    reference = registry.build_reference(definition)
    try:
        runnable = registry.build(definition, solution)
    except BuildError:
        log = traceback.format_exc()
        for workload in workloads:
            cell = _cell(solution_name, workload, Status.COMPILE_ERROR)
            _append(results, _explained(cell, log, profile))
        return
    if solution.spec.language in COMPILED_LANGUAGES:
        reason = "compiled, but CUDA code needs a GPU to run"
        for workload in workloads:
            cell = _cell(solution_name, workload, Status.SKIPPED)
            _append(results, cell.model_copy(update={"reason": reason}))
        return
    for workload in workloads:
        try:
            cell = evaluate(definition, workload, root, reference, runnable, profile)
            log = ""
        except Exception:
            log = traceback.format_exc()
            print(log, flush=True)
            cell = _cell(solution_name, workload, Status.RUNTIME_ERROR)
        if cell.status is not Status.PASSED:
            cell = _explained(cell, log, profile)
        _append(results, cell)
        print(f"{workload.uuid}: {cell.status.value}", flush=True)


def evaluate(
    definition: Definition,
    workload: Workload,
    root: Path,
    reference: Runnable,
    runnable: Runnable,
    profile: Profile,
) -> Cell:
    """Compare one solution with the reference on `num_trials` input sets; the worst figures count."""
    config = BenchmarkConfig(
        rtol=profile.rtol, atol=profile.atol, required_matched_ratio=profile.required_matched_ratio
    )
    tensors = load_safetensors(definition, workload, root)
    cell = _cell(runnable.metadata.solution_name, workload, Status.PASSED)
    worst = {"max_abs_error": 0.0, "max_rel_error": 0.0, "matched_ratio": 1.0}
    for trial in range(profile.num_trials):
        torch.manual_seed(zlib.crc32(f"{workload.uuid}/{trial}".encode()))
        inputs = gen_inputs(definition, workload, DEVICE, tensors)
        expected = reference(*_copies(inputs))
        output = _call(definition, runnable, _copies(inputs))
        if output.shape != expected.shape:
            return cell.model_copy(update={"status": Status.INCORRECT_SHAPE})
        if output.dtype != expected.dtype:
            return cell.model_copy(update={"status": Status.INCORRECT_DTYPE})
        if not torch.isfinite(output).all():
            error = float("nan") if torch.isnan(output).any() else float("inf")
            bad = {"max_abs_error": error, "max_rel_error": error}
            return cell.model_copy(update={"status": Status.INCORRECT_NUMERICAL, **bad})
        absolute, relative, exceeds, matched = compute_error_stats(output, expected, config)
        worst["max_abs_error"] = max(worst["max_abs_error"], absolute)
        worst["max_rel_error"] = max(worst["max_rel_error"], relative)
        worst["matched_ratio"] = min(worst["matched_ratio"], matched)
        if exceeds:
            cell = cell.model_copy(update={"status": Status.INCORRECT_NUMERICAL})
    return cell.model_copy(update=worst)


def _call(definition: Definition, runnable: Runnable, inputs: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        if not runnable.metadata.destination_passing_style:
            return normalize_result(definition, runnable(*inputs), DEVICE)[0]
        outputs = allocate_outputs(definition, inputs, DEVICE)
        for output in outputs:
            output.fill_(float("nan"))  # a row that is not written must show
        runnable(*inputs, *outputs)
        return outputs[0]


def _copies(inputs: list[Any]) -> list[Any]:
    """Inputs of its own for each call, so that a solution that writes to them harms only itself."""
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]


def _cell(solution: str, workload: Workload, status: Status) -> Cell:
    return Cell(solution=solution, workload=workload.uuid, status=status, origin="cpu")


def _explained(cell: Cell, log: str, profile: Profile) -> Cell:
    return cell.model_copy(
        update={"reason": reason_for(cell, log, profile), "log_tail": tail(log) or None}
    )


def _append(path: Path, cell: Cell) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(cell.model_dump_json() + "\n")


if __name__ == "__main__":
    try:
        main(
            Path(sys.argv[1]),
            sys.argv[2],
            sys.argv[3],
            Profile.model_validate_json(sys.argv[4]),
            Path(sys.argv[5]),
        )
    except OSError as error:  # a solution's own errors never come here
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        print(f"{CANNOT_WRITE}{error.strerror or error}", flush=True)
        sys.exit(os.EX_IOERR)
