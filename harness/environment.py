"""What a run runs on and with: GPU, driver, clocks, package versions, commit."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.paths import PROJECT
from harness.process import output_of
from harness.record import Environment, GpuInfo, GpuState

# Distribution names by the name that the record uses; the first that is installed counts.
PACKAGES: dict[str, tuple[str, ...]] = {
    "flashinfer-bench": ("flashinfer-bench",),
    "torch": ("torch",),
    "triton": ("triton",),
    "sgl-kernel": ("sgl-kernel", "sglang-kernel"),
    "deep-gemm": ("sgl-deep-gemm", "deep-gemm"),
    "flashinfer": ("flashinfer-python",),
    "tvm-ffi": ("apache-tvm-ffi",),
    "numpy": ("numpy",),
}

KNOWN_FLASHINFER_BENCH = "0.1.2"
"""The version whose ways the harness knows."""

BUILD_CORES = 4
"""Processors for each solution where several are compiled side by side; one has several files."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
CUDA_HOME = Path("/usr/local/cuda")

# NVML's bits for why clocks are below their maximum; idling is no reason for concern.
THROTTLE_BITS = {
    0x2: "application clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clock setting",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU that NVML sees."""

    index: int
    info: GpuInfo


def find_gpus() -> list[Gpu]:
    """All NVIDIA GPUs of this machine, in NVML's order; empty without a driver.

    Raises:
        HarnessError: there is a driver, but it does not answer.
    """
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in (
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        ):
            return []
        raise _nvml_failed(error) from None
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return [_gpu(pynvml, index, driver) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise _nvml_failed(error) from None
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _nvml_failed(error: Exception) -> HarnessError:
    return HarnessError(
        f"GPU: the NVIDIA driver does not answer ({error}); see nvidia-smi, or use BACKEND=cpu"
    )


def visible_gpus() -> list[Gpu]:
    """The GPUs that a CUDA program would see here, in its order: CUDA_VISIBLE_DEVICES holds where it is set.

    Its numbers are taken as nvidia-smi counts, which is CUDA's own order on a machine whose GPUs are all alike.

    Raises:
        HarnessError: as `find_gpus`; the variable names a part of a GPU.
    """
    gpus = find_gpus()
    wanted = os.environ.get(VISIBLE)
    if wanted is None:
        return gpus
    visible: list[Gpu] = []
    for word in map(str.strip, wanted.split(",")):
        if word.startswith("MIG-"):
            raise HarnessError(f"{VISIBLE}: {word} is a part of a GPU; name a whole one")
        fitting = [gpu for gpu in gpus if _is_called(gpu, word)]
        if len(fitting) != 1 or fitting[0] in visible:
            break  # CUDA, too, sees only what comes before the first word that names none
        visible += fitting
    return visible


def _is_called(gpu: Gpu, word: str) -> bool:
    if word.startswith("GPU-"):  # CUDA takes the beginning of a UUID
        return (gpu.info.uuid or "").startswith(word)
    return word == str(gpu.index)


def pick_gpu(gpus: list[Gpu], index: int) -> Gpu:
    """The GPU at that position of the visible ones.

    Raises:
        HarnessError: there is none.
    """
    if 0 <= index < len(gpus):
        return gpus[index]
    there = ", ".join(f"{i} ({gpu.info.name})" for i, gpu in enumerate(gpus)) or "none"
    limit = os.environ.get(VISIBLE)
    where = "GPUs here" if limit is None else f"visible with {VISIBLE}={limit}"
    fix = (
        "name one of them"
        if gpus
        else "bench and verify check on the CPU where GPU and BACKEND are left out"
    )
    raise HarnessError(f"GPU: there is no GPU {index}; {where}: {there}; {fix}")


def gpu_state(index: int) -> GpuState | None:
    """Clocks, temperature, power and throttle reasons now; None when NVML does not answer."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)

        def ask(call: str, *args: int) -> int | None:
            try:
                return int(getattr(pynvml, call)(handle, *args))
            except Exception:
                return None

        bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        power_mw = ask("nvmlDeviceGetPowerUsage")
        try:
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            others = sum(process.pid != os.getpid() for process in running)
        except Exception:
            others = None
        return GpuState(
            sm_clock_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
            memory_clock_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
            temperature_c=ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            throttle_reasons=[name for bit, name in THROTTLE_BITS.items() if bits & bit],
            other_processes=others,
        )
    except Exception:
        return None
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def capture(gpu: Gpu | None, before: GpuState | None = None) -> Environment:
    """Everything the record says about the surroundings, with the GPU's state now as its state after the run."""
    info = None
    if gpu is not None:
        info = gpu.info.model_copy(update={"before": before, "after": gpu_state(gpu.index)})
    commit = output_of(["git", "rev-parse", "HEAD"], cwd=PROJECT)
    changes = output_of(["git", "status", "--porcelain", "--", ".", ":!results"], cwd=PROJECT)
    return Environment(
        gpu=info,
        cpu=_cpu_name(),
        host=os.environ.get("BENCH_HOST") or platform.node() or None,
        versions=versions(),
        git_commit=commit or os.environ.get("BENCH_COMMIT"),
        git_dirty=None if commit is None or changes is None else bool(changes),
    )


def versions() -> dict[str, str | None]:
    """Versions of what a result depends on; None where a package is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name, distributions in PACKAGES.items():
        found[name] = next((v for d in distributions if (v := _version(d))), None)
    found["cuda"] = _cuda_version()
    return found


def has_package(name: str) -> bool:
    """Whether `import name` would find something, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def build_variables(capability: str | None, cache: Path) -> dict[str, str]:
    """Environment variables that flashinfer-bench's builders need; CUDA_HOME and tvm-ffi's target stay as the user has set them.

    Args:
        capability: compute capability to compile for, such as "9.0"; None: the builder decides.
        cache: folder for what they build.
    """
    wanted = {"FIB_CACHE_PATH": str(cache)}
    if capability:
        # wgmma exists only in the architecture-specific target, which the builders do not ask for.
        target = capability + ("a" if int(capability.split(".")[0]) >= 9 else "")
        wanted["TVM_FFI_CUDA_ARCH_LIST"] = os.environ.get("TVM_FFI_CUDA_ARCH_LIST", target)
        wanted["TORCH_CUDA_ARCH_LIST"] = target  # images have one of their own, with many targets
    if "CUDA_HOME" not in os.environ and (CUDA_HOME / "bin" / "nvcc").exists():
        # The builder otherwise takes the folder above the first nvcc on PATH, which a link can lead astray.
        wanted["CUDA_HOME"] = str(CUDA_HOME)
    return wanted


def builds_at_once(cores: int = BUILD_CORES) -> int:
    """How many solutions are compiled side by side on the processors that this process may use, `cores` for each."""
    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return max(1, len(usable) // cores)


def find_nvcc() -> str | None:
    """The compiler that a build with `build_variables` takes; None where there is none."""
    home = os.environ.get("CUDA_HOME")
    nvcc = Path(home or CUDA_HOME) / "bin" / "nvcc"
    if nvcc.exists():
        return str(nvcc)
    return None if home else shutil.which("nvcc")


def _gpu(pynvml, index: int, driver: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index,
        GpuInfo(
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
            index=index,
            compute_capability=f"{major}.{minor}",
            memory_mib=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20,
            driver=driver,
        ),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_version() -> str | None:
    """The CUDA release that torch was built for, from its version file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    scope: dict[str, object] = {}
    try:
        with open(
            os.path.join(spec.submodule_search_locations[0], "version.py"), encoding="utf-8"
        ) as file:
            exec(file.read(), {"__name__": "torch.version"}, scope)
    except Exception:
        return None
    cuda = scope.get("cuda")
    return cuda if isinstance(cuda, str) else None


def _cpu_name() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine() or None
