"""What is installed, which GPU is here, and what is missing, each with its fix."""

import shutil
from dataclasses import dataclass

from harness.environment import KNOWN_FLASHINFER_BENCH, has_package, versions, visible_gpus
from harness.errors import HarnessError
from harness.manifest import discover
from harness.paths import Paths
from harness.plan import unmet


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    what: str
    found: str
    fix: str = ""
    optional: bool = False
    """Not needed by everything: its absence alone is no error."""


def examine(paths: Paths) -> list[Finding]:
    """Look at packages, tools, GPU and solutions."""
    found = versions()
    try:
        gpus, nvml = visible_gpus(), None
    except HarnessError as error:
        gpus, nvml = [], Finding(False, "GPU", str(error), "nvidia-smi says more")
    findings = [_package(name, found[name]) for name in ("torch", "triton", "flashinfer-bench")]
    if found["flashinfer-bench"] not in (None, KNOWN_FLASHINFER_BENCH):
        findings.append(
            Finding(
                False,
                "flashinfer-bench version",
                f"{found['flashinfer-bench']}",
                f"the harness knows the ways of {KNOWN_FLASHINFER_BENCH}: pip install "
                f"flashinfer-bench=={KNOWN_FLASHINFER_BENCH}",
            )
        )
    if gpus:
        for index, gpu in enumerate(gpus):
            memory = f"{(gpu.info.memory_mib or 0) / 1024:.0f} GiB"
            text = f"{gpu.info.name}, compute capability {gpu.info.compute_capability}, {memory}"
            findings.append(Finding(True, f"GPU {index}", text))
        sgl = found["sgl-kernel"] or ("unknown version" if has_package("sgl_kernel") else None)
        findings.append(
            Finding(
                sgl is not None,
                "sgl-kernel",
                sgl or "not installed",
                "" if sgl else "make setup TARGET=gpu, or see docs/gpu-hosts.md",
                optional=True,
            )
        )
        nvcc = shutil.which("nvcc")
        findings.append(
            Finding(
                nvcc is not None,
                "nvcc",
                nvcc or "not found",
                "" if nvcc else "needed by CUDA solutions only: install the CUDA toolkit",
                optional=True,
            )
        )
    else:
        findings.append(
            nvml
            or Finding(
                True,
                "GPU",
                "none: `make bench` checks correctness on the CPU and measures no speed",
            )
        )
    findings += _solutions(paths, gpus)
    return findings


def _package(name: str, version: str | None) -> Finding:
    return Finding(
        version is not None, name, version or "not installed", "" if version else "make setup"
    )


def _solutions(paths: Paths, gpus: list) -> list[Finding]:
    try:
        variants = discover(paths.solutions)
    except HarnessError as error:
        return [Finding(False, "solutions", str(error), "mend the named file")]
    findings = []
    for variant in variants:
        reason = unmet(variant, gpus[0] if gpus else None)
        findings.append(
            Finding(reason is None, variant.label, reason or "can run here", optional=True)
        )
    return findings
