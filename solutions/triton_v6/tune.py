"""Time candidate tiles for every entry of the table, on the GPU of this host. No source of the solution.

    python -m solutions.triton_v6.tune [--tokens 1 57] [--kernel gemm1] [--seconds 300]

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
from typing import Any

import torch

from .launch import Arguments, Step, fields_of, launch, steps_for
from .tiles import Gemm, Tiles, tiles_for
from .workspace import Buffers, Workspace, buffers_for

EXPERTS, LOCAL, HIDDEN, INTER = 256, 32, 7168, 2048
# Tokens, local pairs and active local experts of typical workloads of this definition.
CASES = {1: (3, 3), 15: (10, 5), 57: (63, 28), 256: (300, 32), 901: (1331, 32), 14107: (16099, 32)}
KERNELS = ("gemm1", "gemm2")
SHARED_MEMORY = 227 * 1024


@dataclass(frozen=True)
class Candidate:
    """One kernel with one set of launch parameters, in the table's entry for a number of tokens."""

    kernel: str
    gemm: Gemm
    tokens: int


def candidates(kernel: str, entry: Tiles) -> list[Gemm]:
    """A bounded list around what makes sense for the entry; its own choice comes first."""
    base = getattr(entry, kernel)
    found = [base]
    if base.swap:
        shapes = [(32, 16), (64, 16), (64, 32)] if kernel == "gemm1" else [(64, 16), (128, 16)]
        if entry.max_tokens > 128:
            shapes = [(64, 32), (64, 64)] if kernel == "gemm1" else [(64, 32), (128, 32)]
        pipelines = [(3, 1), (4, 1), (5, 1), (7, 1), (2, 2), (3, 2), (4, 2), (2, 4)]
        choices = itertools.product(shapes, pipelines, (4, 16), (True, False))
        for (m, n), (stages, unroll), per_sm, ahead in choices:
            found.append(Gemm(m, n, 4, stages, per_sm, True, unroll, ahead))
    else:
        columns = (128,) if kernel == "gemm1" else (128, 256)
        rows = ((64, 4), (64, 8), (128, 8))  # 128 rows of 4 warps do not fit into registers
        for m, (n, warps), stages in itertools.product(columns, rows, (3, 4, 5)):
            per_sm = 2 if warps == 4 else 1
            found.append(Gemm(m, n, warps, stages, per_sm, False))
    return [g for g in dict.fromkeys(found) if _shared_memory(kernel, g) <= SHARED_MEMORY]


def _shared_memory(kernel: str, gemm: Gemm) -> int:
    """Bytes of the load pipeline."""
    weights = gemm.block_m * (2 if kernel == "gemm1" else 1)
    return gemm.stages * gemm.unroll * 128 * (gemm.block_n + weights)


def step_for(args: Arguments, candidate: Candidate) -> Step:
    """The kernel's launch, which waits for what came before it on the stream."""
    entry = replace(tiles_for(candidate.tokens), **{candidate.kernel: candidate.gemm})
    return getattr(steps_for(args, entry, pdl=False), candidate.kernel)


def compile_candidate(candidate: Candidate) -> None:
    """Put the kernel's binary into Triton's cache on disk; errors show when it is launched."""
    step = step_for(make_arguments(candidate.tokens, "meta"), candidate)
    f8, bf16, i32, f32 = torch.float8_e4m3fn, torch.bfloat16, torch.int32, torch.float32
    if candidate.kernel == "gemm1":
        types = (f8, f32, f8, f32, i32, i32, f8, f32, bf16, i32)
    else:
        pairs = f32 if tiles_for(candidate.tokens).float_pairs else bf16
        types = (f8, f32, f8, f32, i32, i32, pairs)
    step.kernel.warmup(*types, candidate.tokens, grid=(1,), **step.constants, **step.options)


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


def make_arguments(tokens: int, device: str = "cuda") -> Arguments:
    """Random tensors of the full size, the routing aside; on "meta" only their shapes."""

    def f8(*shape: int) -> torch.Tensor:
        out = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
        for part in out if device != "meta" else ():
            part.copy_(torch.randn(part.shape, device=device).clamp_(-2, 2))
        return out

    def scale(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device)

    return Arguments(
        scale(tokens, EXPERTS),
        torch.zeros(EXPERTS, dtype=torch.bfloat16, device=device),
        f8(tokens, HIDDEN),
        scale(HIDDEN // 128, tokens),
        f8(LOCAL, 2 * INTER, HIDDEN),
        scale(LOCAL, 2 * INTER // 128, HIDDEN // 128),
        f8(LOCAL, HIDDEN, INTER),
        scale(LOCAL, HIDDEN // 128, INTER // 128),
        torch.empty(tokens, HIDDEN, dtype=torch.bfloat16, device=device),
    )


def inputs(args: Arguments, buffers: Buffers, kernel: str) -> tuple[Any, ...]:
    """The kernel's tensors, in its order."""
    a, b = args, buffers
    lists, made = (b.counts, b.rows), (b.inter, b.inter_scale)
    if kernel == "gemm1":
        return a.x, a.x_scale, a.w13, a.w13_scale, *lists, *made, b.staged, b.arrived
    return *made, a.w2, a.w2_scale, *lists, b.pairs


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


def _valid_rows(buffers: Buffers, kernel: str) -> torch.Tensor:
    """The kernel's result for the local pairs, in float32."""
    local = (buffers.expert >= 0).flatten()
    if kernel == "gemm2":
        return buffers.pairs[local].float()
    # Not every PyTorch can index f8.
    inter = buffers.inter.view(torch.uint8)[local].view(buffers.inter.dtype).float()
    return inter * buffers.inter_scale[local].repeat_interleave(128, dim=1)


def sweep(tokens: int, kernel: str, weights: Arguments, deadline: float) -> None:
    """Time the candidates of one kernel for one number of tokens and print a line each, fastest first."""
    pairs, active = CASES[tokens]
    entry = tiles_for(tokens)
    small = make_arguments(tokens, "meta")
    args = replace(
        weights,
        logits=logits_for(tokens, pairs, active).cuda(),
        x=torch.randn(small.x.shape, device="cuda").clamp_(-2, 2).to(torch.float8_e4m3fn),
        x_scale=torch.randn(small.x_scale.shape, device="cuda"),
        output=torch.empty_like(small.output, device="cuda"),
    )
    workspace = Workspace(args.x.device)
    sizes = (workspace, tokens, LOCAL, HIDDEN, INTER)
    buffers = buffers_for(*sizes, entry)

    steps = steps_for(args, entry, pdl=False)
    launch(
        replace(steps, combine=lambda *_: None),  # which would zero the counts
        fields_of(args),
        fields_of(buffers),
        tokens,
        0,
        2.5,
    )
    counted = (int(buffers.counts.sum()), int((buffers.counts > 0).sum()))
    expected = _valid_rows(buffers, kernel)
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    size = counted[1] * HIDDEN * INTER * (2 if kernel == "gemm1" else 1)
    results: list[tuple[float, str]] = []
    for gemm in candidates(kernel, entry):
        if time.monotonic() > deadline:
            print("out of time: the rest is left out")
            break
        try:
            step = step_for(args, Candidate(kernel, gemm, tokens))
            # The same buffers, but for what a tile of GEMM1 decides about: where it is staged and counted.
            values = inputs(args, buffers_for(*sizes, replace(entry, **{kernel: gemm})), kernel)

            def work(step: Step = step, values: tuple[Any, ...] = values) -> None:
                step(*values, tokens)

            result = buffers.inter if kernel == "gemm1" else buffers.pairs
            result.view(torch.uint8).zero_()
            micros = time_graph(work, flush)
            got = _valid_rows(buffers, kernel)
            error = float((got - expected).norm() / expected.norm())
            note = "" if error < 0.01 else f" WRONG ({error:.3g})"
        except Exception as failure:
            micros, note = float("inf"), f" {type(failure).__name__}: {str(failure)[:60]}"
        mark = " <- table" if gemm == getattr(entry, kernel) else ""
        text = f"m{gemm.block_m} n{gemm.block_n} w{gemm.warps} s{gemm.stages} u{gemm.unroll} x{gemm.programs_per_sm}"
        text += " ahead" * gemm.ahead
        results.append((micros, f"{text:36} {size / micros / 1e6:6.3f} TB/s{mark}{note}"))
    print(f"T={tokens} {kernel}: {counted[0]} pairs, {counted[1]} experts, entry '{entry.name}'")
    for micros, text in sorted(results):
        print(f"  {micros:8.1f} us  {text}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kernel", choices=KERNELS, nargs="+", default=list(KERNELS))
    parser.add_argument("--seconds", type=float, default=300, help="stop timing after this long")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + options.seconds
    cases = [(tokens, kernel) for tokens in options.tokens for kernel in options.kernel]
    # Grid sizes share a binary.
    binaries = dict.fromkeys(
        Candidate(kernel, replace(gemm, programs_per_sm=1), tokens)
        for tokens, kernel in cases
        for gemm in candidates(kernel, tiles_for(tokens))
    )
    workers = max(1, min(16, (os.cpu_count() or 2) - 1))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_try_compile, binaries))
    print(f"{len(binaries)} kernels compiled, {deadline - time.monotonic():.0f} s left")
    weights = make_arguments(1)
    for tokens, kernel in cases:
        sweep(tokens, kernel, weights, deadline)


if __name__ == "__main__":
    main()
