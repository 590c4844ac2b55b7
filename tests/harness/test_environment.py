"""What the record says of the machine, with NVML stubbed."""

import subprocess
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
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("1", [1]),
        ("GPU-stub-2, 1", [2, 1]),
        ("", []),
        ("-1", []),
        ("1,7,0", [1]),  # CUDA stops at the first that is none
        ("1,1", [1]),
        ("GPU-stub", []),  # the beginning of several
    ],
)
def test_what_a_cuda_program_sees(
    one_gpu: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, indices: list[int]
) -> None:
    monkeypatch.setenv("STUB_GPUS", "3")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in environment.visible_gpus()] == indices


def test_part_of_a_gpu_is_refused(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    with pytest.raises(HarnessError, match="CUDA_VISIBLE_DEVICES: MIG-1234 is a part of a GPU"):
        environment.visible_gpus()


@pytest.mark.parametrize("fails", ["nvmlInit 9", "nvmlInit 12"])
def test_no_driver_is_no_gpu(one_gpu: None, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    monkeypatch.setenv("STUB_NVML_FAILS", fails)
    assert environment.find_gpus() == [] and environment.gpu_state(0) is None


@pytest.mark.parametrize(
    "fails", ["nvmlInit 18", "nvmlSystemGetDriverVersion 15", "nvmlDeviceGetHandleByIndex 15"]
)
def test_a_driver_that_does_not_answer_is_an_error(
    one_gpu: None, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A broken GPU must not pass for a machine that has none; a run that has begun goes on without its clocks."""
    monkeypatch.setenv("STUB_NVML_FAILS", fails)
    with pytest.raises(
        HarnessError, match=r"driver does not answer .NVML error 1[58].; .*BACKEND=cpu"
    ):
        environment.find_gpus()
    if "Driver" not in fails:
        assert environment.gpu_state(0) is None


def test_shutting_nvml_down_cannot_fail(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_NVML_FAILS", "nvmlShutdown 15")
    assert len(environment.find_gpus()) == 1 and environment.gpu_state(0)


def test_gpu_as_nvml_tells_it(one_gpu: None) -> None:
    (gpu,) = environment.find_gpus()
    assert gpu.info.name == "NVIDIA Stub 100" and gpu.info.compute_capability == "9.0"
    assert gpu.info.driver == "580.00" and gpu.info.memory_mib == 80 << 10
    state = environment.gpu_state(0)
    assert state and state.throttle_reasons == ["software power cap"]
    assert state.power_w == pytest.approx(123.456) and state.memory_clock_mhz == 3201
    captured = environment.capture(gpu, before=state)
    assert captured.gpu and captured.gpu.before == state and captured.gpu.after == state
    for index in (1, -1):
        with pytest.raises(
            HarnessError, match=rf"no GPU {index}; GPUs here: 0 \(NVIDIA Stub 100\)"
        ):
            environment.pick_gpu([gpu], index)


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


def test_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clean is clean; runs under results/ do not count, changed and new files do."""
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*args: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "a").write_text("1")
    git("init")
    git("add", "a")
    git("commit", "-m", "m")
    commit = (environment.capture(None)).git_commit
    assert commit and len(commit) == 40

    def dirty() -> bool | None:
        return environment.capture(None).git_dirty

    assert dirty() is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")
    assert dirty() is False
    (tmp_path / "new").write_text("1")
    assert dirty() is True
    (tmp_path / "new").unlink()
    assert dirty() is False
    (tmp_path / "a").write_text("2")
    assert dirty() is True


def test_has_package() -> None:
    assert environment.has_package("torch") and not environment.has_package("no_such_package")


def test_build_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TVM_FFI_CUDA_ARCH_LIST", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "CUDA_HOME", tmp_path)
    cache = str(tmp_path)
    assert environment.build_variables("9.0", tmp_path) == {
        "FIB_CACHE_PATH": cache,
        "TVM_FFI_CUDA_ARCH_LIST": "9.0a",
        "TORCH_CUDA_ARCH_LIST": "9.0a",
    }
    assert environment.build_variables("8.9", tmp_path)["TVM_FFI_CUDA_ARCH_LIST"] == "8.9"
    assert environment.build_variables(None, tmp_path) == {"FIB_CACHE_PATH": cache}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert environment.build_variables(None, tmp_path)["CUDA_HOME"] == cache
    assert environment.find_nvcc() == str(tmp_path / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert environment.find_nvcc() is None, "the builder looks there and nowhere else"
    monkeypatch.setenv("TVM_FFI_CUDA_ARCH_LIST", "10.0a")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 8.0 9.0")
    found = environment.build_variables("9.0", tmp_path)
    assert found["TVM_FFI_CUDA_ARCH_LIST"] == "10.0a", "the user's own"
    assert found["TORCH_CUDA_ARCH_LIST"] == "9.0a", "as a rule the image's"


@pytest.mark.parametrize(("usable", "builds", "of_two"), [(2, 1, 1), (8, 2, 4), (16, 4, 8)])
def test_builds_are_counted_by_the_processors_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, usable: int, builds: int, of_two: int
) -> None:
    monkeypatch.setattr(environment.os, "cpu_count", lambda: 128)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda pid: set(range(usable)))
    assert environment.builds_at_once() == builds and environment.builds_at_once(2) == of_two
