"""From the words a user typed to a checked plan of one run; everything that can be wrong is found here, before it runs."""

import os
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from harness import dataset as datasets
from harness.dataset import Dataset
from harness.definition import FULL, SMALL, Definition, discover_definitions, load_definition
from harness.environment import Gpu, find_nvcc, has_package, pick_gpu, visible_gpus
from harness.errors import HarnessError
from harness.manifest import COMPILED_LANGUAGES, Variant, select, survey
from harness.paths import Paths
from harness.profile import Profile, load_profile
from harness.record import Cell, WorkloadInfo

DEFAULT_SOLUTIONS = ("sglang_v1", "sglang_v2", "triton_v1", "triton_v2")
EMULATED = ("sgl_kernel",)
"""Packages that the CPU backend stands in for."""


@dataclass(frozen=True)
class Request:
    """What the user asked for, as typed."""

    solutions: list[str]
    profile: str = "seed"
    workloads: list[str] | None = None
    gpu: int | None = None
    """Index among the visible GPUs; None: the first, where there is one."""
    run: str | None = None
    suite: str = "published"
    backend: Literal["auto", "gpu", "cpu"] = "auto"
    definition: str | None = None
    repeats: int = 1
    suffix: str = ""
    """Added to a run name that is made up."""
    resume: bool = False
    """The run's folder is there, and is written to again."""


@dataclass(frozen=True)
class Plan:
    """A run that can start."""

    run_id: str
    profile_name: str
    profile: Profile
    definition: Definition
    dataset: Dataset
    workloads: list[WorkloadInfo]
    variants: list[Variant]
    """All solutions asked for, in that order."""
    skipped: dict[str, str]
    """Solutions that cannot run here, by name, with the reason."""
    gpu: Gpu | None
    """None: the CPU backend."""
    paths: Paths
    repeats: int = 1
    """How often everything is measured."""
    refused: dict[str, Cell] = field(default_factory=dict)
    """Solutions that failed verification, by name, each with its cell of any workload; filled while the run goes on."""

    @property
    def runnable(self) -> list[Variant]:
        aside = {*self.skipped, *self.refused}
        return [v for v in self.variants if v.name not in aside]

    @property
    def folder(self) -> Path:
        """Where the record and its reports go."""
        return self.paths.results / self.run_id

    @property
    def scratch(self) -> Path:
        """Staged roots and logs; never committed."""
        return self.folder / "scratch"


def renamed(plan: Plan, request: Request) -> Plan:
    """The plan with its name looked at again: another run may have taken it since, while this one waited.

    Raises:
        HarnessError: the user's own name is taken.
    """
    return replace(plan, run_id=_choose_run_id(request, plan.gpu, plan.paths.results))


def make_plan(request: Request, paths: Paths) -> Plan:
    """Check a request against what is here.

    Raises:
        HarnessError: whatever is wrong first; the message names it and the fix.
    """
    profile = load_profile(paths.configs, request.profile)
    gpu = _choose_gpu(request)
    if request.repeats < 1:
        raise HarnessError(f"REPEATS: {request.repeats} is no number of repetitions; use 1 or more")
    variants = select(survey(paths.solutions), request.solutions)
    if not has_package("flashinfer_bench"):
        raise HarnessError(
            "flashinfer-bench: the Python package is not installed; run `make setup`"
        )
    definition = _choose_definition(request, paths, on_gpu=gpu is not None)
    _check_fit(variants, definition)
    dataset = open_dataset(definition, request.suite, paths, on_gpu=gpu is not None)
    return Plan(
        run_id=_choose_run_id(request, gpu, paths.results),
        profile_name=request.profile,
        profile=profile,
        definition=definition,
        dataset=dataset,
        workloads=choose_workloads(dataset.workloads, request.workloads),
        variants=variants,
        skipped={v.name: reason for v in variants if (reason := unmet(v, gpu))},
        gpu=gpu,
        paths=paths,
        repeats=request.repeats if gpu else 1,
    )


def open_dataset(definition: Definition, suite: str, paths: Paths, on_gpu: bool = True) -> Dataset:
    """The user's dataset where FIB_DATASET_PATH names one and a GPU can run it, else the synthetic one."""
    root = os.environ.get("FIB_DATASET_PATH")
    if root and on_gpu:
        if suite != "published":
            raise HarnessError(
                f"SUITE: '{suite}' belongs to the synthetic dataset; unset FIB_DATASET_PATH to use it"
            )
        return datasets.real(definition, Path(root).expanduser())
    if root:  # not used without a GPU, but what is wrong with it is said now
        full = load_definition(paths.definitions / FULL)
        datasets.real(full, Path(root).expanduser())
    return datasets.synthetic(definition, suite, paths.datasets)


def unmet(variant: Variant, gpu: Gpu | None) -> str | None:
    """Why a solution cannot run here, or None when it can."""
    requires = variant.manifest.requires
    reasons = []
    if gpu is None:
        if variant.manifest.language in COMPILED_LANGUAGES:
            return f"{variant.manifest.language} code needs a GPU"
        if requires.gpu:
            return "needs a GPU"
    elif requires.compute_capabilities:
        have = gpu.info.compute_capability
        if have not in requires.compute_capabilities:
            wanted = " or ".join(requires.compute_capabilities)
            reasons.append(f"requires compute capability {wanted}, {gpu.info.name} has {have}")
    if variant.manifest.language in COMPILED_LANGUAGES and find_nvcc() is None:
        reasons.append("needs nvcc, which is not here")
    if packages := absent_packages(variant, gpu):
        reasons.append(f"requires the Python package {', '.join(packages)}, which is not installed")
    return "; ".join(reasons) or None


def absent_packages(variant: Variant, gpu: Gpu | None) -> list[str]:
    """The Python packages that a solution lacks here."""
    there = stand_ins(variant, gpu)
    return [p for p in variant.manifest.requires.packages if p not in there and not has_package(p)]


def stand_ins(variant: Variant, gpu: Gpu | None) -> list[str]:
    """The Python packages in whose place a solution gets the CPU backend's own here."""
    return [] if gpu else [p for p in variant.manifest.requires.packages if p in EMULATED]


def choose_workloads(workloads: list[WorkloadInfo], wanted: list[str] | None) -> list[WorkloadInfo]:
    """The workloads named by id, by the beginning of an id, or by number of tokens (`T=57`, `T=1-80`).

    Raises:
        HarnessError: a word fits none.
    """
    if not wanted:
        return workloads
    chosen: set[str] = set()
    for word in wanted:
        fitting = [w.id for w in workloads if _fits(w, word)]
        if not fitting:
            known = ", ".join(f"{w.id[:12]} (T={w.seq_len})" for w in workloads)
            raise HarnessError(f"WORKLOADS: '{word}' fits none of: {known}")
        chosen.update(fitting)
    return [w for w in workloads if w.id in chosen]


def _fits(workload: WorkloadInfo, word: str) -> bool:
    if found := re.fullmatch(r"T=(\d+)(?:-(\d+))?", word):
        low = int(found[1])
        return low <= workload.seq_len <= int(found[2] or low)
    # A synthetic workload may be called by the id of the real one that it stands in for.
    return workload.id.startswith(word) or (
        len(word) >= 8 and workload.id.startswith(f"syn-{word.split('-')[0]}")
    )


def _choose_gpu(request: Request) -> Gpu | None:
    if request.backend == "cpu":
        if request.gpu is not None:
            raise HarnessError(
                f"GPU: GPU {request.gpu} was asked for, but the CPU backend uses none; leave one of the two out"
            )
        return None
    gpus = visible_gpus()
    if request.backend == "auto" and request.gpu is None and not gpus:
        return None
    return pick_gpu(gpus, request.gpu or 0)


def _choose_definition(request: Request, paths: Paths, on_gpu: bool) -> Definition:
    known = discover_definitions(paths.definitions)
    name = request.definition or (FULL if on_gpu else SMALL)
    if name not in known:
        raise HarnessError(
            f"{paths.definitions}: has no definition {name}; there are: {', '.join(known) or 'none'}"
        )
    return known[name]


def _check_fit(variants: list[Variant], definition: Definition) -> None:
    for variant in variants:
        if not variant.fits(definition.name):
            raise HarnessError(
                f"{variant.folder / 'manifest.yaml'}: key 'definitions': "
                f"{', '.join(variant.manifest.definitions)} does not match {definition.name}; add it or leave the "
                "solution out"
            )


def _choose_run_id(request: Request, gpu: Gpu | None, results: Path) -> str:
    if request.run is not None:
        name = request.run.removeprefix("results/").rstrip("/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise HarnessError(
                f"RUN: '{request.run}' is no folder name; use letters, digits, '.', '_' and '-'"
            )
        if (results / name).exists() and not request.resume:
            raise HarnessError(
                f"RUN: {results / name} exists; choose another name or remove the folder"
            )
        return name
    device = (
        re.sub(r"[^a-z0-9]+", "-", gpu.info.name.lower().replace("nvidia", "")).strip("-")
        if gpu
        else "cpu"
    )
    stem = f"{datetime.now(timezone.utc):%Y-%m-%d}-{device}{request.suffix}"
    number = 1
    while (results / (name := stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return name
