"""What the record says of the machine, with NVML stubbed."""

import sys
from pathlib import Path

import pytest

from harness import environment
from harness.errors import HarnessError
from harness.paths import PROJECT


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "stub_gpu"))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


def test_gpu_as_nvml_tells_it(one_gpu: None) -> None:
    (gpu,) = environment.find_gpus()
    assert gpu.info.name == "NVIDIA Stub 100" and gpu.info.compute_capability == "9.0"
    assert gpu.info.driver == "580.00" and gpu.info.memory_mib == 80 << 10
    state = environment.gpu_state(0)
    assert state and state.throttle_reasons == ["software power cap"]
    assert state.power_w == pytest.approx(123.456) and state.memory_clock_mhz == 3201
    captured = environment.capture(gpu, before=state)
    assert captured.gpu and captured.gpu.before == state and captured.gpu.after == state
    with pytest.raises(HarnessError, match=r"no GPU 1; GPUs here: 0 \(NVIDIA Stub 100\)"):
        environment.pick_gpu([gpu], 1)


def test_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert environment.find_gpus() == [] and environment.gpu_state(0) is None


def test_versions() -> None:
    found = environment.versions()
    assert found["flashinfer-bench"] == "0.1.2" and found["python"]
    assert set(found) >= {"torch", "triton", "sgl-kernel", "cuda", "numpy"}


def test_host_and_commit_can_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy without .git, on a host whose name says nothing."""
    monkeypatch.setenv("BENCH_HOST", "bench-1")
    monkeypatch.setenv("BENCH_COMMIT", "abc")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    captured = environment.capture(None)
    assert (
        captured.host == "bench-1" and captured.git_commit == "abc" and captured.git_dirty is None
    )


def test_has_package() -> None:
    assert environment.has_package("torch") and not environment.has_package("no_such_package")


def test_build_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TVM_FFI_CUDA_ARCH_LIST", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "CUDA_HOME", tmp_path)
    cache = str(tmp_path)
    hopper = {"FIB_CACHE_PATH": cache, "TVM_FFI_CUDA_ARCH_LIST": "9.0a"}
    assert environment.build_variables("9.0", tmp_path) == hopper
    assert environment.build_variables("8.9", tmp_path)["TVM_FFI_CUDA_ARCH_LIST"] == "8.9"
    assert environment.build_variables(None, tmp_path) == {"FIB_CACHE_PATH": cache}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert environment.build_variables(None, tmp_path)["CUDA_HOME"] == cache
    monkeypatch.setenv("TVM_FFI_CUDA_ARCH_LIST", "10.0a")
    assert environment.build_variables("9.0", tmp_path)["TVM_FFI_CUDA_ARCH_LIST"] == "10.0a"
