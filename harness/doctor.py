"""What is installed, which GPU is here, and what is missing, each with its fix."""

from dataclasses import dataclass
from typing import Literal

from harness.environment import (
    KNOWN_FLASHINFER_BENCH,
    Gpu,
    find_nvcc,
    has_package,
    versions,
    visible_gpus,
)
from harness.errors import HarnessError
from harness.manifest import COMPILED_LANGUAGES, Variant, survey
from harness.paths import Paths
from harness.plan import absent_packages, stand_ins, unmet

HOW_TO_INSTALL = {
    "sgl_kernel": "make setup TARGET=gpu, or docs/gpu-hosts.md",
    # It names an older apache-tvm-ffi than the one that the rest needs.
    "deep_gemm": "pip install --no-deps sgl-deep-gemm==0.1.2",
    "flashinfer": "pip install flashinfer-python",
}
"""By the name of the import."""
HOW_TO_GET_NVCC = "install the CUDA toolkit, or set CUDA_HOME to where it is"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    what: str
    found: str
    fix: str = ""
    optional: bool = False
    """Not needed by everything: its absence alone is no error."""

    @property
    def state(self) -> Literal["ok", "no", "!!"]:
        """'no' is the absence of what not everything needs, '!!' is an error."""
        return "ok" if self.ok else "no" if self.optional else "!!"


def examine(paths: Paths) -> list[Finding]:
    """Look at packages, tools, GPU and solutions."""
    found = versions()
    try:
        gpus, nvml = visible_gpus(), None
    except HarnessError as error:
        gpus, nvml = [], Finding(False, "GPU", str(error), "nvidia-smi says more")
    findings = [_package(name, found[name]) for name in ("torch", "triton", "flashinfer-bench")]
    drawing = has_package("matplotlib")
    findings.append(
        Finding(
            drawing,
            "matplotlib",
            "installed" if drawing else "not installed: reports have no charts",
            "" if drawing else "make setup",
            optional=True,
        )
    )
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
        nvcc = find_nvcc()
        findings.append(
            Finding(
                nvcc is not None,
                "nvcc",
                nvcc or "not found",
                "" if nvcc else f"needed by CUDA solutions only: {HOW_TO_GET_NVCC}",
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


def _solutions(paths: Paths, gpus: list[Gpu]) -> list[Finding]:
    try:
        there = survey(paths.solutions)
    except HarnessError as error:
        return [Finding(False, "solutions", str(error), "mend the named file")]
    gpu = gpus[0] if gpus else None
    return [
        *(_solution(variant, gpu) for variant in there.variants),
        *(
            Finding(False, f, str(error), "mend the named file")
            for f, error in there.broken.items()
        ),
    ]


def _solution(variant: Variant, gpu: Gpu | None) -> Finding:
    reason = unmet(variant, gpu)
    requires = variant.manifest.requires
    here = "can run here" if gpu else "can run here for correctness"
    if standing_in := stand_ins(variant, gpu):
        here += f", with a stand-in for {', '.join(standing_in)}"
    found = f"{reason or here}; it requires {requires.described()}"
    return Finding(
        reason is None, variant.label, found, _how_to(variant, gpu) if reason else "", optional=True
    )


def _how_to(variant: Variant, gpu: Gpu | None) -> str:
    """How to get what an unmet solution requires."""
    requires = variant.manifest.requires
    if gpu is None and (requires.gpu or variant.manifest.language in COMPILED_LANGUAGES):
        return "run it on a GPU host: docs/gpu-hosts.md"
    fixes = []
    wanted = requires.compute_capabilities
    if gpu and wanted and gpu.info.compute_capability not in wanted:
        fixes.append(f"run it on a GPU of compute capability {' or '.join(wanted)}")
    if variant.manifest.language in COMPILED_LANGUAGES and find_nvcc() is None:
        fixes.append(HOW_TO_GET_NVCC)
    absent = absent_packages(variant, gpu)
    fixes += [HOW_TO_INSTALL.get(p, f"pip install what provides {p}") for p in absent]
    return "; ".join(fixes)
