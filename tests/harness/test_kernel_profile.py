"""The profile command without a GPU: its one-line error, and what a profile adds up to."""

from pathlib import Path

from harness.kernel_profile import Kernel, KernelProfile
from tests.harness.folders import harness, stub, write_solution


def test_launches_add_up() -> None:
    kernels = [Kernel(name="a", launches=2, us=3.5), Kernel(name="b", launches=0.5, us=1)]
    entry = KernelProfile(
        solution="s", workload="w", seq_len=1, latency_us=9, host_us=5, gpu_us=4.5, kernels=kernels
    )
    assert entry.launches == 2.5


def test_a_failed_profile_says_why(tmp_path: Path) -> None:
    """The stub GPU has no CUDA behind it, so the profiling process fails."""
    write_solution(tmp_path / "solutions", "a", stub("passed 1.0"))
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    done = harness("profile", "a", "--workloads", "T=1", *where, stub_gpu=True)
    assert done.returncode == 2 and done.stderr.startswith("error: profile: the process failed: ")
    assert done.stderr.count("\n") == 1
    done = harness("profile", "a", *where)
    assert done.returncode == 2 and "no GPU" in done.stderr
