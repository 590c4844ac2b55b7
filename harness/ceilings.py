"""What a GPU can do at best: streaming read bandwidth and dense FP8 rate, measured in a process of their own.

`python -m harness.ceilings` prints one line of JSON, a `harness.record.Ceilings`.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial

from harness.record import Ceilings

READ_BYTES = 4 << 30  # far beyond any L2, long enough that launching is nothing
GEMM_SIZE = 8192
REPEATS = 20
METHOD = (
    "read: Triton kernel summing 4 GiB of int32, best of several block sizes; "
    "FP8: torch._scaled_mm 8192^3 e4m3 on random data; median of 20, CUDA events"
)


def measure() -> Ceilings:
    """Measure both ceilings on the current CUDA device; about five seconds."""
    return Ceilings(
        read_gb_per_s=round(_read_gb_per_s(), 1),
        fp8_tflop_per_s=round(_fp8_tflop_per_s(), 1),
        method=METHOD,
    )


def _median_ms(call: Callable[[], object]) -> float:
    import torch

    for _ in range(3):
        call()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _read_gb_per_s() -> float:
    import torch

    from harness.read_kernel import sum_blocks

    words = torch.randint(-8, 8, (READ_BYTES // 4,), dtype=torch.int32, device="cuda")
    best = 0.0
    for block, per_program, warps in (
        (4096, 4, 8),
        (4096, 16, 8),
        (8192, 4, 8),
        (8192, 16, 16),
        (16384, 4, 16),
    ):
        programs = words.numel() // (block * per_program)
        sums = torch.empty(programs, dtype=torch.int32, device="cuda")
        call = partial(
            sum_blocks[(programs,)], words, sums, BLOCK=block, COUNT=per_program, num_warps=warps
        )
        best = max(best, READ_BYTES / _median_ms(call) / 1e6)
    return best


def _fp8_tflop_per_s() -> float:
    import torch

    def operand() -> torch.Tensor:
        return torch.randn(GEMM_SIZE, GEMM_SIZE, device="cuda").to(torch.float8_e4m3fn)

    a, b = operand(), operand().t()
    one = torch.ones((), device="cuda")

    def call() -> None:
        torch._scaled_mm(
            a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return 2 * GEMM_SIZE**3 / _median_ms(call) / 1e9


if __name__ == "__main__":
    sys.stdout.write(measure().model_dump_json() + "\n")
