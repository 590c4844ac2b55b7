"""What a user types becomes a checked plan."""

import re
from pathlib import Path

import pytest

from harness.dataset import INFO_NAME, synthetic, write_out
from harness.definition import FULL, load_definition
from harness.environment import Gpu
from harness.errors import HarnessError
from harness.manifest import Manifest, Requires, Variant
from harness.paths import PROJECT, Paths
from harness.plan import Request, choose_workloads, make_plan, unmet
from harness.record import GpuInfo, WorkloadInfo
from tests.harness.folders import write_solution

WORKLOADS = [
    WorkloadInfo(id="syn-e05c6c03", seq_len=1, local_expert_offset=32),
    WorkloadInfo(id="syn-b8f4f012", seq_len=7, local_expert_offset=192),
    WorkloadInfo(id="1a4c6ba1-3cd2-4d7d-b716-84f2d52b69fc", seq_len=901, local_expert_offset=96),
]


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (None, [1, 7, 901]),
        ([], [1, 7, 901]),
        (["T=7"], [7]),
        (["T=1-7"], [1, 7]),
        (["1a4c"], [901]),
        (["1a4c6ba1-3cd2-4d7d-b716-84f2d52b69fc", "T=1"], [1, 901]),
        (["syn-b8"], [7]),
        (["e05c6c03"], [1]),  # the real id of a synthetic stand-in
        (["e05c6c03-5603-4a1c-b34c-dcce0ecaeea4"], [1]),
        (["syn-"], [1, 7]),
    ],
)
def test_choose_workloads(words: list[str] | None, sizes: list[int]) -> None:
    assert [w.seq_len for w in choose_workloads(WORKLOADS, words)] == sizes


@pytest.mark.parametrize("word", ["T=8", "T=8-900", "e05c", "T=", "x"])
def test_a_word_that_fits_none(word: str) -> None:
    with pytest.raises(HarnessError, match=re.escape(f"WORKLOADS: '{word}' fits none")):
        choose_workloads(WORKLOADS, ["T=1", word])


def variant(language: str = "python", **requires: list[str] | bool) -> Variant:
    manifest = Manifest(
        name="n",
        summary="s",
        author="a",
        definitions=["d"],
        language=language,
        entry_point="a::b",
        destination_passing_style=True,
        sources=["a"],
        state="none",
        requires=Requires(**requires),
    )
    return Variant(folder=Path("n"), manifest=manifest, sources={})


def test_unmet_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, GpuInfo(name="G", compute_capability="9.0"))
    assert unmet(variant(), gpu) is None and unmet(variant(), None) is None
    assert unmet(variant(compute_capabilities=["9.0", "10.0"]), gpu) is None
    assert (
        unmet(variant(compute_capabilities=["10.0"]), gpu)
        == "requires compute capability 10.0, G has 9.0"
    )
    # Without a GPU the interpreter runs Triton code for any, and sgl_kernel has a stand-in.
    assert (
        unmet(variant("triton", compute_capabilities=["10.0"], packages=["sgl_kernel"]), None)
        is None
    )
    assert "nope" in (unmet(variant(packages=["torch", "nope"]), gpu) or "")
    assert "needs a GPU" in (unmet(variant("cuda"), None) or "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert unmet(variant("cuda"), gpu) == "needs nvcc, which is not here"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert unmet(variant("cuda"), gpu) is None
    # A Python wrapper of compiled code runs nowhere else, whatever can be imported.
    assert unmet(variant(gpu=True, packages=["torch"]), None) == "needs a GPU"
    assert unmet(variant(gpu=True, packages=["torch"]), gpu) is None


def test_run_names_count_up(tmp_path: Path) -> None:
    write_solution(tmp_path / "solutions", "a")
    paths = Paths(
        solutions=tmp_path / "solutions", results=tmp_path / "results", build=tmp_path / "build"
    )
    request = Request(solutions=["a"], backend="cpu")
    first = make_plan(request, paths).run_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-cpu", first)
    (tmp_path / "results" / first).mkdir(parents=True)
    assert make_plan(request, paths).run_id == f"{first}-2"
    named = Request(solutions=["a"], backend="cpu", run="results/mine/")
    assert make_plan(named, paths).run_id == "mine"


def test_the_users_dataset_is_not_for_the_cpu_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real dataset has the full size only, which a CPU cannot check in reasonable time. A wrong one is refused even so."""
    write_solution(tmp_path / "solutions", "a")
    paths = Paths(
        solutions=tmp_path / "solutions", results=tmp_path / "results", build=tmp_path / "build"
    )
    full = load_definition(PROJECT / "definitions" / FULL)
    users = write_out(synthetic(full, "published", tmp_path / "datasets"), [], tmp_path / "users")
    (users / INFO_NAME).unlink()
    monkeypatch.setenv("FIB_DATASET_PATH", str(users))
    plan = make_plan(Request(solutions=["a"], backend="cpu"), paths)
    assert plan.dataset.info.kind == "synthetic" and plan.gpu is None
    monkeypatch.setenv("FIB_DATASET_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(HarnessError, match="nowhere is no folder"):
        make_plan(Request(solutions=["a"], backend="cpu"), paths)
