"""Makes solution folders, and runs the command line as a user would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from harness.definition import FULL
from harness.manifest import ALL, Variant, select, survey
from harness.paths import PROJECT

REFERENCE = (PROJECT / "definitions" / FULL / "reference.py").read_text()
"""A solution that is right by definition: the reference itself."""

HIDDEN = ("FIB_DATASET_PATH", "TRITON_INTERPRET")
"""What a tester's own environment must not change."""


def write_solution(root: Path, folder: str, code: str = REFERENCE, **changes: Any) -> Path:
    """Make `root`/`folder` with a manifest and main.py; `changes` replace manifest keys, None removes one."""
    path = root / folder
    path.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "name": f"{folder}_full_name",
        "summary": f"what {folder} does",
        "author": "tests",
        "definitions": ["moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_*"],
        "language": "python",
        "entry_point": "main.py::run",
        "destination_passing_style": False,
        "sources": ["main.py"],
        "state": "none",
        **changes,
    }
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    if code is not None:
        (path / "main.py").write_text(code)
    return path


def discover(solutions: Path) -> list[Variant]:
    """Every variant under `solutions`, all of which must be usable."""
    return select(survey(solutions), [ALL])


def stub(behaviour: str) -> str:
    """Code of a solution that the stub runner treats as `behaviour` says."""
    return f"# stub: {behaviour}\ndef run(*inputs):\n    pass\n"


def environment(stub_gpu: bool = False, **extra: str) -> dict[str, str]:
    """Environment for the command line; with `stub_gpu` it sees one GPU and a runner that needs none."""
    path = [str(PROJECT / "tests" / "stub_gpu")] if stub_gpu else []
    if above := os.environ.get("PYTHONPATH"):  # an offline GPU host has its packages there
        path.append(above)
    # Which GPUs a tester lets be used holds for real ones only.
    hidden = {*HIDDEN, "CUDA_VISIBLE_DEVICES"} if stub_gpu else HIDDEN
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    return {**env, "PYTHONPATH": os.pathsep.join(path), "COLUMNS": "200", **extra}


def harness(
    *args: str | Path, stub_gpu: bool = False, timeout: float = 300, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m harness ARGS` from the project's root; the stub GPU has nothing that verification could examine."""
    if stub_gpu and args[0] == "bench" and "--resume" not in args:
        args = (*args, "--no-verify")
    return _run([sys.executable, "-m", "harness", *args], stub_gpu, timeout, extra)


def harness_with_small_files(
    kib: int, *args: str | Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """The same where no file can grow beyond `kib` KiB."""
    limited = ["bash", "-c", f'ulimit -f {kib} && exec "$@"', "bash"]
    return _run([*limited, sys.executable, "-m", "harness", *args], False, timeout, {})


def _run(
    command: list[str | Path], stub_gpu: bool, timeout: float, extra: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=PROJECT,
        env=environment(stub_gpu, **extra),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
