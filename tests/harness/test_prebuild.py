"""Solutions are compiled before they are examined, where there are several and a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness import bench
from harness.bench import Prebuild
from harness.environment import Gpu, find_nvcc
from harness.paths import Paths
from harness.plan import Plan, Request, make_plan
from harness.process import Background
from harness.record import GpuInfo
from tests.harness.folders import write_solution
from tests.harness.processes import running

SOUND = """
#include <tvm/ffi/tvm_ffi.h>
void run() {}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


STUB = """
import signal, subprocess, sys, time
from pathlib import Path
subprocess.Popen({words}, start_new_session=True)
if {waits}:
    time.sleep(600)
Path(sys.argv[3]).touch()
signal.pause()
"""
"""In place of harness/prebuild.py: leaves a process in a group of its own, and is done at once or never."""


def write_stub(path: Path, code: str) -> None:
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(code)


def plan_for(tmp_path: Path, sources: dict[str, str], **manifest: str) -> Plan:
    """As on a GPU; `sources` by folder."""
    for folder, code in sources.items():
        path = write_solution(
            *(tmp_path / "solutions", folder),
            language="cuda",
            sources=["moe.cu"],
            entry_point="moe.cu::run",
            **manifest,
        )
        (path / "moe.cu").write_text(code)
    paths = Paths(
        solutions=tmp_path / "solutions", results=tmp_path / "results", build=tmp_path / "build"
    )
    plan = make_plan(Request(["all"], backend="cpu", run="r"), paths)
    gpu = Gpu(0, GpuInfo(name="G", compute_capability="9.0"))
    return replace(plan, gpu=gpu, skipped={})


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
def test_solutions_are_compiled_side_by_side(tmp_path: Path) -> None:
    """One that does not compile keeps no other from it; what is compiled is where flashinfer-bench looks for it."""
    plan = plan_for(tmp_path, {"a": SOUND, "b": SOUND.replace("{}", "{ broken"), "c": SOUND})
    said: list[str] = []
    with Prebuild(plan, said.append) as compiling:
        assert said == ["compiling 3 solutions, where they are not compiled yet"]
        compiling.wait()
    built = {path.stem for path in plan.paths.kernel_cache.rglob("*.so")}
    assert len(built) == 2 and all("a_full_name" in b or "c_full_name" in b for b in built), built
    assert len(said) == 1


def test_one_alone_is_built_where_it_is_used(tmp_path: Path) -> None:
    """And those that torch makes callable, which it compiles anew in every process."""
    for folder, sources in (("one", {"a": SOUND}), ("torch", {"a": SOUND, "b": SOUND})):
        binding = {"binding": "torch"} if folder == "torch" else {}
        plan = plan_for(tmp_path / folder, sources, **binding)
        said: list[str] = []
        with Prebuild(plan, said.append) as compiling:
            compiling.wait()
        assert not said and not plan.paths.kernel_cache.exists()


def test_what_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its time limit, and by the end of the block, as after Ctrl-C; neither leaves a process behind."""
    plan = plan_for(tmp_path, {"a": SOUND, "b": SOUND})
    monkeypatch.setattr(bench, "COMPILE_S", 0)
    said: list[str] = []
    with Prebuild(plan, said.append) as compiling:
        late = compiling._process
        compiling.wait()
        assert late is not None and late.returncode() is not None
    assert said[1:] == ["compiling took too long; each solution is compiled where it is used"]
    monkeypatch.setattr(bench, "COMPILE_S", 60)
    with Prebuild(plan, said.append) as compiling:
        left = compiling._process
        assert left is not None and left.returncode() is None
    assert left.returncode() is not None and len(said) == 3


def test_compilers_are_ended_with_the_block_and_nobody_is_charged_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with those that take too long, which ninja starts in groups of their own, nor with a daemon that outlives a build."""
    plan = plan_for(tmp_path, {"a": SOUND, "b": SOUND})
    with Background(["sleep", "600"]) as examined:
        for words, limit, said in (("sleep 619", 1, 2), ("sleep 620", 60, 1)):
            stub = tmp_path / "harness" / "prebuild.py"
            write_stub(stub, STUB.format(words=words.split(), waits=limit == 1))
            monkeypatch.setattr(bench, "PROJECT", tmp_path)
            monkeypatch.setattr(bench, "COMPILE_S", limit)
            lines: list[str] = []
            with Prebuild(plan, lines.append) as compiling:
                compiling.wait()
                assert len(lines) == said
                assert bool(running(words)) is (limit == 60) and not examined.strays()
            assert not running(words) and not examined.strays()
