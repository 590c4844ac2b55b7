"""Where one call's time goes: latency, host time and every kernel, for chosen workloads.

`python -m harness.kernel_profile ROOT DEFINITION OUT SOLUTION...` runs in a process of its own, on the visible GPU, and
writes `KernelProfile`s as JSON to OUT.
"""

import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.record import DatasetInfo, Environment, SolutionInfo

WARMUP = 5
CALLS = 20
FLUSH_BYTES = 256 << 20


class Kernel(BaseModel):
    """One kernel of a call."""

    name: str
    launches: float
    """Per call."""
    us: float
    """Sum over its launches in one call, microseconds."""


class KernelProfile(BaseModel):
    """One solution on one workload."""

    solution: str
    workload: str
    seq_len: int
    latency_us: float
    """Median between CUDA events around a call on an idle GPU, L2 flushed before it."""
    host_us: float
    """Median until the call returns to Python, in the same calls."""
    gpu_us: float
    """Sum of all its kernels."""
    kernels: list[Kernel]
    """By falling time."""

    @property
    def launches(self) -> float:
        """Kernels, copies and fills per call."""
        return sum(kernel.launches for kernel in self.kernels)


class ProfileRecord(BaseModel):
    """`results/<run>/profile.json`: the profiles of one run, and what they ran on and with."""

    started: str
    """ISO 8601, UTC."""
    environment: Environment
    dataset: DatasetInfo
    solutions: list[SolutionInfo]
    profiles: list[KernelProfile]


def profile(root: Path, definition_name: str, names: list[str]) -> list[KernelProfile]:
    """Profile every named solution on every workload of a staged root."""
    from flashinfer_bench.bench.evaluators.utils import allocate_outputs
    from flashinfer_bench.bench.utils import gen_inputs, load_safetensors
    from flashinfer_bench.compile import BuilderRegistry
    from flashinfer_bench.data import TraceSet

    trace_set = TraceSet.from_path(str(root))
    definition = trace_set.definitions[definition_name]
    registry = BuilderRegistry.get_instance()
    profiles = []
    for trace in trace_set.workloads[definition_name]:
        workload = trace.workload
        tensors = load_safetensors(definition, workload, root)
        inputs = gen_inputs(definition, workload, "cuda", tensors)
        for name in names:
            runnable = registry.build(definition, trace_set.get_solution(name))
            args = list(inputs)
            if runnable.metadata.destination_passing_style:
                args += allocate_outputs(definition, inputs, "cuda")
            profiles.append(_profile_call(name, workload, runnable, args))
    return profiles


def _profile_call(name: str, workload: Any, call: Any, args: list[Any]) -> KernelProfile:
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    flush = torch.zeros(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    latencies, hosts = [], []
    for number in range(WARMUP + CALLS):
        flush.bitwise_not_()  # a kernel that no solution uses, so that it can be told apart below
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        began = time.perf_counter()
        call(*args)
        host = time.perf_counter() - began
        end.record()
        torch.cuda.synchronize()
        if number >= WARMUP:
            latencies.append(start.elapsed_time(end) * 1e3)
            hosts.append(host * 1e6)

    with torch_profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            flush.bitwise_not_()
            call(*args)
        torch.cuda.synchronize()
    launches: defaultdict[str, int] = defaultdict(int)
    times: defaultdict[str, float] = defaultdict(float)
    for event in recorded.events():
        if event.device_type == DeviceType.CUDA and "bitwise_not" not in event.name:
            launches[event.name] += 1
            times[event.name] += event.time_range.elapsed_us()
    kernels = [
        Kernel(name=key, launches=launches[key] / CALLS, us=round(times[key] / CALLS, 2))
        for key in sorted(times, key=times.__getitem__, reverse=True)
    ]
    return KernelProfile(
        solution=name,
        workload=workload.uuid,
        seq_len=workload.axes["seq_len"],
        latency_us=round(statistics.median(latencies), 1),
        host_us=round(statistics.median(hosts), 1),
        gpu_us=round(sum(k.us for k in kernels), 1),
        kernels=kernels,
    )


if __name__ == "__main__":
    results = profile(Path(sys.argv[1]), sys.argv[2], sys.argv[4:])
    Path(sys.argv[3]).write_text(
        json.dumps([r.model_dump() for r in results], indent=1) + "\n", encoding="utf-8"
    )
