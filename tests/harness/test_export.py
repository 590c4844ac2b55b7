"""Exports load in FlashInfer-Bench and give back what went in."""

import json
import subprocess
import sys
from math import inf
from pathlib import Path
from statistics import median

import pytest
from flashinfer_bench.agents import pack_solution_from_files
from flashinfer_bench.data import BuildSpec, Solution, TraceSet

from harness.definition import FULL
from harness.errors import HarnessError
from harness.export import write_solution_json, write_starter_kit
from harness.paths import PROJECT, Paths
from harness.record import load_record
from tests.harness.folders import discover, environment, harness, write_solution

VARIANTS = {v.folder.name: v for v in discover(Paths().solutions)}
COMMITTED = sorted(path.parent for path in Paths().results.glob("*/traces.jsonl"))


@pytest.mark.parametrize("folder", VARIANTS)
def test_solution_json_round_trip(tmp_path: Path, folder: str):
    variant = VARIANTS[folder]
    path = write_solution_json(variant, FULL, tmp_path / "solution.json")
    solution = Solution.model_validate_json(path.read_text())
    manifest = variant.manifest
    assert (solution.name, solution.definition) == (manifest.name, FULL)
    assert (solution.author, solution.description) == (manifest.author, manifest.summary)
    assert solution.spec.language.value == manifest.language
    assert solution.spec.entry_point == manifest.entry_point
    assert solution.spec.destination_passing_style == manifest.destination_passing_style
    assert {s.path: s.content for s in solution.sources} == variant.sources
    again = Solution.model_validate_json(solution.model_dump_json())
    assert again.hash() == solution.hash()


def test_an_exported_solution_runs_in_plain_flashinfer_bench(tmp_path: Path):
    """Put into a dataset of somebody else, as a contest entry is."""
    root = tmp_path / "root"
    small = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h512_i256"
    assert harness("dataset", "--out", root, "--definition", small).returncode == 0
    for path in (root / "solutions").rglob("*.json"):
        path.unlink()
    out = root / "solutions" / "solution.json"
    done = harness("export", "triton_v2", "--out", out, "--definition", small)
    assert done.returncode == 0, done.stderr
    command = [Path(sys.executable).parent / "flashinfer-bench", "run", "--local", root]
    run = subprocess.run(command, env=environment(stub_gpu=True), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = TraceSet.from_path(str(root)).traces[small]
    assert {t.solution for t in found} == {"triton_fused_moe_v2"}
    assert all(t.evaluation and t.evaluation.status.value == "PASSED" for t in found)


@pytest.mark.parametrize(
    "folder",
    [
        folder
        for folder, variant in VARIANTS.items()
        if variant.manifest.language != "python" and variant.manifest.binding != "torch"
    ],
)
def test_starter_kit_round_trip(tmp_path: Path, folder: str):
    """Packed as the kit packs it: by config.toml, from all source files of one folder."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    variant = VARIANTS[folder]
    kit = write_starter_kit(variant, FULL, tmp_path / "kit")
    config = tomllib.loads((kit / "config.toml").read_text())
    build = config["build"]
    packed = pack_solution_from_files(
        path=str(kit / "solution" / build["language"]),
        spec=BuildSpec(
            language=build["language"],
            target_hardware=["cuda"],
            entry_point=build["entry_point"],
            destination_passing_style=build["destination_passing_style"],
        ),
        **config["solution"],
    )
    exported = variant.solution_json(FULL)
    assert (packed.name, packed.definition) == (exported["name"], exported["definition"])
    assert packed.spec.entry_point == variant.manifest.entry_point
    assert {s.path: s.content for s in packed.sources} == variant.sources


def test_what_the_starter_kit_cannot_take_is_said(tmp_path: Path):
    with pytest.raises(HarnessError, match="triton and cuda, not python"):
        write_starter_kit(VARIANTS["sglang_v1"], FULL, tmp_path / "kit")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(HarnessError, match="exists"):
        write_starter_kit(VARIANTS["triton_v2"], FULL, tmp_path / "there")
    cuda = {"language": "cuda", "entry_point": "main.cu::run", "sources": ["main.cu"]}
    (write_solution(tmp_path / "cuda", "bound", binding="torch", **cuda) / "main.cu").write_text(
        "void run() {}\n"
    )
    (bound,) = discover(tmp_path / "cuda")
    with pytest.raises(HarnessError, match="packs CUDA for tvm-ffi only"):
        write_starter_kit(bound, FULL, tmp_path / "kit")
    folder = write_solution(tmp_path, "nested", language="triton", sources=["main.py", "a/b.py"])
    (folder / "a").mkdir()
    (folder / "a" / "b.py").write_text("x = 1\n")
    (nested,) = discover(tmp_path)
    with pytest.raises(HarnessError, match=r"a/b\.py lies in a folder"):
        write_starter_kit(nested, FULL, tmp_path / "kit")
    assert not (tmp_path / "kit").exists()


def test_export_command(tmp_path: Path):
    kit = tmp_path / "kit"
    assert harness("export", "hopper_v1", "--starter-kit", kit).returncode == 0
    assert (kit / "solution" / "cuda" / "moe.cu").exists()
    done = harness("export", "triton_v2", "--definition", "rmsnorm", "--out", tmp_path / "s.json")
    assert done.returncode == 2 and "rmsnorm" in done.stderr and not (tmp_path / "s.json").exists()
    done = harness("export", "triton_v2", "--out", tmp_path)
    assert done.returncode == 2 and f"OUT: {tmp_path} is a folder" in done.stderr


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset root of the full size."""
    root = tmp_path_factory.mktemp("dataset") / "root"
    assert harness("dataset", "--out", root).returncode == 0
    return root


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_traces_load_in_flashinfer_bench(published: Path, folder: Path):
    """As the trace file of a dataset, with the statuses, latencies and best solutions of the record."""
    (published / "traces" / "run.jsonl").write_text((folder / "traces.jsonl").read_text())
    loaded = TraceSet.from_path(str(published))
    found = loaded.traces[FULL]
    record = load_record(folder)
    cells = {(c.solution, c.workload): c for c in record.cells}
    assert {(t.solution, t.workload.uuid) for t in found} <= set(cells)
    latencies: dict[tuple[str, str], list[float]] = {}
    for trace in found:
        key = trace.solution, trace.workload.uuid
        assert trace.evaluation and trace.evaluation.status.value == cells[key].status.value
        speed = trace.evaluation.performance
        latencies.setdefault(key, []).extend([speed.latency_ms] if speed else [])
    for key, measured in latencies.items():
        assert (median(measured) if measured else None) == cells[key].latency_ms
    if record.repeats > 1:
        return  # there the best is by medians, which flashinfer-bench does not form
    workload = next(w for w in record.workloads if w.seq_len == 1)
    fastest = max(
        (c for c in record.cells if c.workload == workload.id and c.speedup),
        key=lambda c: c.speedup,
    )
    best = loaded.get_best_trace(FULL, {"seq_len": 1}, max_abs_error=inf, max_rel_error=inf)
    assert best and best.solution == fastest.solution


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_traces_are_plain_json(folder: Path):
    """One object a line, without NaN and Infinity, which other readers of JSON do not know."""
    for line in (folder / "traces.jsonl").read_text().splitlines():
        trace = json.loads(line, parse_constant=pytest.fail)
        assert {"definition", "workload", "solution", "evaluation"} <= set(trace)


def test_project_folder_is_not_written_to_by_tests():
    assert not (PROJECT / "solution.json").exists()
