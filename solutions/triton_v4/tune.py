"""Time candidate tiles for every entry of the table, on the GPU of this host. No source of the solution.

    python -m solutions.triton_v4.tune [--tokens 1 57] [--kernel gemm1] [--seconds 300]

from the repository root, with the full definition's sizes. Each candidate is one kernel in a CUDA graph, timed from event
to event after L2 was flushed; the result is checked against the table's own entry, so a candidate that is wrong says so.
Candidates are compiled in parallel first. Copy winners to tiles.py.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch

from .gemm import gemm1_kernel, gemm2_kernel
from .launch import Arguments, launch_gemm1, launch_gemm2, launch_route
from .tiles import Gemm, Tiles, tiles_for
from .workspace import Buffers, Workspace, buffers_for

EXPERTS, LOCAL, HIDDEN, INTER = 256, 32, 7168, 2048
# Tokens, local pairs and active local experts of typical workloads of this definition.
CASES = {1: (3, 3), 15: (10, 5), 57: (63, 28), 256: (300, 32), 901: (1331, 32), 14107: (16099, 32)}
LAUNCH = {"gemm1": launch_gemm1, "gemm2": launch_gemm2}
SHARED_MEMORY = 227 * 1024


@dataclass(frozen=True)
class Candidate:
    """One kernel with one set of launch parameters."""

    kernel: str
    gemm: Gemm
    quantise: bool


def candidates(kernel: str, entry: Tiles) -> list[Gemm]:
    """A bounded list around what makes sense for the entry; its own choice comes first."""
    base = getattr(entry, kernel)
    found = [base]
    if not entry.quantise:
        shapes = [(32, 16), (64, 16), (64, 32)] if kernel == "gemm1" else [(64, 16), (128, 16)]
        if entry.max_tokens > 128:
            shapes = [(64, 32), (32, 32)] if kernel == "gemm1" else [(64, 32), (128, 32)]
        pipelines = [(4, 1), (5, 1), (7, 1), (2, 2), (3, 2), (4, 2), (2, 4)]
        for (m, n), (stages, unroll), per_sm in itertools.product(shapes, pipelines, (4, 16)):
            found.append(Gemm(m, n, 4, stages, per_sm, True, unroll))
    else:
        columns = (128,) if kernel == "gemm1" else (128, 256)
        rows = ((64, 4), (64, 8), (128, 8))  # 128 rows of 4 warps do not fit into registers
        for m, (n, warps), stages in itertools.product(columns, rows, (3, 4, 5)):
            per_sm = 2 if warps == 4 else 1
            found.append(Gemm(m, n, warps, stages, per_sm, False))
    return [
        g
        for g in dict.fromkeys(found)
        if _shared_memory(kernel, g, entry.quantise) <= SHARED_MEMORY
    ]


def _shared_memory(kernel: str, gemm: Gemm, quantise: bool) -> int:
    """Bytes of the load pipeline."""
    rows = gemm.block_n * (1 if kernel == "gemm1" or quantise else 2)
    weights = gemm.block_m * (2 if kernel == "gemm1" else 1)
    return gemm.stages * gemm.unroll * 128 * (rows + weights)


def compile_candidate(candidate: Candidate) -> None:
    """Put the kernel's binary into Triton's cache on disk; errors show when it is launched."""
    gemm, f8 = candidate.gemm, torch.float8_e4m3fn
    handed = f8 if candidate.quantise else torch.bfloat16
    common = {
        "HIDDEN": HIDDEN,
        "INTER": INTER,
        "NUM_LOCAL": LOCAL,
        "BLOCK_M": gemm.block_m,
        "BLOCK_N": gemm.block_n,
        "UNROLL": gemm.unroll,
        "SWAP": gemm.swap,
        "PDL": False,
        "num_warps": gemm.warps,
        "num_stages": gemm.stages,
        "grid": (1,),
    }
    i32, f32 = torch.int32, torch.float32
    if candidate.kernel == "gemm1":
        types = (f8, f32, f8, f32, i32, i32, handed, f32)
        gemm1_kernel.warmup(*types, 57, QUANTISE=candidate.quantise, **common)
    else:
        types = (handed, f32, f8, f32, i32, i32, torch.bfloat16 if candidate.quantise else f32)
        gemm2_kernel.warmup(*types, 57, QUANTISED=candidate.quantise, PREFETCH=False, **common)


def _try_compile(candidate: Candidate) -> None:
    try:
        compile_candidate(candidate)
    except Exception as error:
        print(f"{candidate}: {error}", flush=True)


def logits_for(tokens: int, pairs: int, active: int) -> torch.Tensor:
    """Logits [T, E] f32 on the CPU that route `pairs` pairs to the first `active` experts of rank 0."""
    g = torch.Generator().manual_seed(0)
    logits = torch.rand(tokens, EXPERTS, generator=g) - 5.0
    logits[:, 32:128].view(tokens, 3, 32)[:, :, :3] += (
        7.0  # what the others take: 9 experts, 3 groups
    )
    want = torch.full((tokens,), pairs // tokens)
    want[: pairs % tokens] += 1
    if pairs < tokens:  # several local experts for fewer tokens, as in real routing
        want = torch.zeros(tokens, dtype=torch.int64)
        some = max(1, pairs // 2)
        want[:some] = pairs // some
        want[: pairs % some] += 1
    at = 0
    for token in torch.randperm(tokens, generator=g).tolist():
        order = torch.arange(active).roll(-at)[: int(want[token])]
        logits[token, order] += 8.5
        at += int(want[token])
    return logits


def make_arguments(
    tokens: int, logits: torch.Tensor, weights: dict[str, torch.Tensor]
) -> Arguments:
    """Random activations beside given weights, on the GPU."""
    x = torch.randn(tokens, HIDDEN, device="cuda").clamp_(-2, 2).to(torch.float8_e4m3fn)
    return Arguments(
        logits.cuda(),
        torch.zeros(EXPERTS, dtype=torch.bfloat16, device="cuda"),
        x,
        torch.randn(HIDDEN // 128, tokens, device="cuda"),
        **weights,
        output=torch.empty(tokens, HIDDEN, dtype=torch.bfloat16, device="cuda"),
    )


def make_weights() -> dict[str, torch.Tensor]:
    """Random weights and scales of the full size."""

    def f8(*shape: int) -> torch.Tensor:
        out = torch.empty(shape, dtype=torch.float8_e4m3fn, device="cuda")
        for part in out:
            part.copy_(torch.randn(part.shape, device="cuda").clamp_(-2, 2))
        return out

    def scale(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(LOCAL, rows // 128, columns // 128, device="cuda")

    return {
        "w13": f8(LOCAL, 2 * INTER, HIDDEN),
        "w13_scale": scale(2 * INTER, HIDDEN),
        "w2": f8(LOCAL, HIDDEN, INTER),
        "w2_scale": scale(HIDDEN, INTER),
    }


def time_graph(work: Callable[[], None], flush: torch.Tensor, repeats: int = 9) -> float:
    """Median microseconds of `work` as a CUDA graph, event to event, with a cold L2."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(repeats):
        flush.zero_()
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def _valid_rows(buffers: Buffers, kernel: str, quantise: bool) -> torch.Tensor:
    """The kernel's result for the local pairs, in float32."""
    local = (buffers.expert >= 0).flatten()
    if kernel == "gemm2":
        return buffers.pairs[local].float()
    if not quantise:
        return buffers.inter[local].float()
    # Not every PyTorch can index f8.
    inter = buffers.inter.view(torch.uint8)[local].view(buffers.inter.dtype).float()
    return inter * buffers.inter_scale[local].repeat_interleave(128, dim=1)


def sweep(tokens: int, kernel: str, weights: dict[str, torch.Tensor], deadline: float) -> None:
    """Time the candidates of one kernel for one number of tokens and print a line each, fastest first."""
    pairs, active = CASES[tokens]
    entry = tiles_for(tokens)
    args = make_arguments(tokens, logits_for(tokens, pairs, active), weights)
    workspace = Workspace(args.x.device)
    buffers = buffers_for(
        workspace, tokens, LOCAL, HIDDEN, INTER, entry.quantise, entry.float_pairs
    )
    launch_route(args, buffers, 0, 2.5)
    launch_gemm1(args, buffers, entry.gemm1, entry.quantise)
    launch_gemm2(args, buffers, entry.gemm2, entry.quantise)
    counted = (int(buffers.counts.sum()), int((buffers.counts > 0).sum()))
    expected = _valid_rows(buffers, kernel, entry.quantise)
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    size = counted[1] * HIDDEN * INTER * (2 if kernel == "gemm1" else 1)
    results: list[tuple[float, str]] = []
    for gemm in candidates(kernel, entry):
        if time.monotonic() > deadline:
            print("out of time: the rest is left out")
            break
        try:

            def work(gemm: Gemm = gemm) -> None:
                LAUNCH[kernel](args, buffers, gemm, entry.quantise)

            result = buffers.inter if kernel == "gemm1" else buffers.pairs
            result.view(torch.uint8).zero_()
            micros = time_graph(work, flush)
            got = _valid_rows(buffers, kernel, entry.quantise)
            error = float((got - expected).norm() / expected.norm())
            note = "" if error < 0.01 else f" WRONG ({error:.3g})"
        except Exception as failure:
            micros, note = float("inf"), f" {type(failure).__name__}: {str(failure)[:60]}"
        mark = " <- table" if gemm == getattr(entry, kernel) else ""
        text = f"m{gemm.block_m} n{gemm.block_n} w{gemm.warps} s{gemm.stages} u{gemm.unroll} x{gemm.programs_per_sm}"
        results.append((micros, f"{text:30} {size / micros / 1e6:6.3f} TB/s{mark}{note}"))
        if kernel == "gemm1":  # GEMM2's candidates start from a right intermediate
            launch_gemm1(args, buffers, entry.gemm1, entry.quantise)
    print(f"T={tokens} {kernel}: {counted[0]} pairs, {counted[1]} experts, entry '{entry.name}'")
    for micros, text in sorted(results):
        print(f"  {micros:8.1f} us  {text}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kernel", choices=LAUNCH, nargs="+", default=list(LAUNCH))
    parser.add_argument("--seconds", type=float, default=300, help="stop timing after this long")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + options.seconds
    cases = [(tokens, kernel) for tokens in options.tokens for kernel in options.kernel]
    todo = dict.fromkeys(
        Candidate(kernel, gemm, tiles_for(tokens).quantise)
        for tokens, kernel in cases
        for gemm in candidates(kernel, replace(tiles_for(tokens)))
    )
    # Grid sizes share a binary.
    binaries = dict.fromkeys(replace(c, gemm=replace(c.gemm, programs_per_sm=1)) for c in todo)
    workers = max(1, min(16, (os.cpu_count() or 2) - 1))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_try_compile, binaries))
    print(f"{len(binaries)} kernels compiled, {deadline - time.monotonic():.0f} s left")
    weights = make_weights()
    for tokens, kernel in cases:
        sweep(tokens, kernel, weights, deadline)


if __name__ == "__main__":
    main()
