"""The CPU backend through the command line: each failure costs only its own cells, and no speed is shown."""

from pathlib import Path

import pytest

from harness.environment import find_nvcc
from harness.record import RunRecord, Status, load_record
from tests.harness.folders import REFERENCE, harness, write_solution

DPS_HALF = (
    REFERENCE
    + """

def half(*args):
    *inputs, output = args
    output[::2] = run(*inputs)[::2]
"""
)


# Ways to hang: in silence, while it keeps printing, and with its output closed.
HANGS = {
    "hangs": "time.sleep(600)",
    "chatters": "while True: print('still here', flush=True); time.sleep(0.01)",
    "mute": "os.close(1); os.close(2); time.sleep(600)",
}

DAEMON = (
    REFERENCE
    + """

def leave_a_daemon(*inputs):
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open({path!r}, "a") as file:
                file.write(f"{{os.getpid()}}\\n")
            time.sleep(600)
        os._exit(0)
    return run(*inputs)
"""
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, str, int]:
    root = tmp_path_factory.mktemp("cpu")
    solutions = root / "solutions"
    write_solution(solutions, "good")
    wrong = REFERENCE.replace(
        "activated = torch.nn.functional.silu(gate) * up", "activated = gate * up"
    )
    assert wrong != REFERENCE
    write_solution(solutions, "wrong", wrong)
    shape = "import torch\ndef run(*a):\n    return torch.zeros(1, dtype=torch.bfloat16)\n"
    write_solution(solutions, "shape", shape)
    write_solution(
        solutions, "dtype", REFERENCE.replace("return output.to(torch.bfloat16)", "return output")
    )
    write_solution(solutions, "raises", "def run(*a):\n    raise ValueError('no luck')\n")
    write_solution(
        solutions,
        "dies",
        "import os\ndef run(*a):\n    print('about to', flush=True)\n    os.kill(os.getpid(), 11)\n",
    )
    write_solution(solutions, "broken", "import no_such_module\ndef run(*a): pass\n")
    for folder, how in HANGS.items():
        write_solution(solutions, folder, f"import os, time\ndef run(*a):\n    {how}\n")
    daemon = DAEMON.format(path=str(root / "pids"))
    write_solution(solutions, "daemon", daemon, entry_point="main.py::leave_a_daemon")
    write_solution(
        solutions, "half", DPS_HALF, entry_point="main.py::half", destination_passing_style=True
    )
    write_solution(solutions, "cuda", "void run() {}", language="cuda")
    configs = root / "configs"
    configs.mkdir()
    profile = (Path(__file__).parents[2] / "configs" / "quick.yaml").read_text()
    (configs / "short.yaml").write_text(profile.replace("timeout: 120", "timeout: 6"))
    done = harness(
        *(
            "bench",
            "all",
            "--backend",
            "cpu",
            "--no-verify",
            "--run",
            "r",
            "--profile",
            "short",
            "--workloads",
            "T=5-14",
        ),
        *(
            "--solutions-dir",
            solutions,
            "--results-dir",
            root / "results",
            "--configs-dir",
            configs,
        ),
        CUDA_HOME=str(root),  # without nvcc, wherever it may be here
    )
    report = (root / "results" / "r" / "comparison.md").read_text()
    pids = [int(line) for line in (root / "pids").read_text().split()]
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids), "a daemon outlived it"
    return load_record(root / "results" / "r"), report, done.returncode


@pytest.mark.parametrize(
    ("folder", "status", "reason"),
    [
        ("good", Status.PASSED, ""),
        ("wrong", Status.INCORRECT_NUMERICAL, "matched ratio"),
        ("shape", Status.INCORRECT_SHAPE, "shape"),
        ("dtype", Status.INCORRECT_DTYPE, "dtype"),
        ("raises", Status.RUNTIME_ERROR, "ValueError: no luck"),
        ("dies", Status.RUNTIME_ERROR, "killed by signal 11"),
        ("broken", Status.COMPILE_ERROR, "no_such_module"),
        ("daemon", Status.PASSED, ""),
        ("half", Status.INCORRECT_NUMERICAL, "NaN"),
        ("cuda", Status.SKIPPED, "cuda code needs a GPU"),
    ],
)
def test_each_gets_its_status_and_reason(
    outcome: tuple[RunRecord, str, int], folder: str, status: Status, reason: str
) -> None:
    record, report, code = outcome
    assert code == 1
    cells = {c.workload: c for c in record.cells if c.solution == f"{folder}_full_name"}
    assert set(cells) == {"no-local-token", "few-pairs"}
    cell = cells["few-pairs"]
    assert cell.status is status and reason in (cell.reason or ""), cell
    assert cell.latency_ms is None and cell.speedup is None
    if reason:
        assert reason in report


@pytest.mark.parametrize("folder", HANGS)
def test_a_hang_costs_the_limit_once(outcome: tuple[RunRecord, str, int], folder: str) -> None:
    """However it hangs; and it is not asked for again."""
    record, report, _ = outcome
    first, second = (c for c in record.cells if c.solution == f"{folder}_full_name")
    assert first.status is Status.TIMEOUT and first.reason == "no result within 6 s"
    assert second.status is Status.MISSING
    assert second.reason == f"not run after the timeout on {first.workload}"
    assert second.reason in report


KERNEL = """
#include <tvm/ffi/tvm_ffi.h>
__global__ void nothing() { asm volatile("wgmma.fence.sync.aligned;"); }
void run() { nothing<<<1, 1>>>(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
def test_cuda_code_is_at_least_compiled(tmp_path: Path) -> None:
    """For the architecture that the manifest names: wgmma exists in sm_90a alone. Not by torch, which needs a GPU for that."""
    wrong = KERNEL.replace("wgmma.fence", "wgmna.fence")
    for folder, code, binding in (
        ("sound", KERNEL, None),
        ("unsound", wrong, "tvm-ffi"),
        ("bound", wrong, "torch"),
    ):
        path = write_solution(
            tmp_path / "solutions",
            folder,
            language="cuda",
            binding=binding,
            sources=["moe.cu"],
            entry_point="moe.cu::run",
            destination_passing_style=True,
            requires={"compute_capabilities": ["9.0"]},
        )
        (path / "moe.cu").write_text(code)
    done = harness(
        *("bench", "all", "--backend", "cpu", "--no-verify", "--run", "r", "--workloads", "T=1"),
        *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
    )
    bound, sound, unsound = load_record(tmp_path / "results" / "r").cells
    assert done.returncode == 1, done.stdout + done.stderr
    assert sound.status is Status.SKIPPED and "compiled" in (sound.reason or ""), sound
    assert unsound.status is Status.COMPILE_ERROR and "wgmna" in (unsound.log_tail or ""), unsound
    assert bound.status is Status.SKIPPED and "needs a GPU" in (bound.reason or ""), bound


def test_the_record_says_that_nothing_was_timed(outcome: tuple[RunRecord, str, int]) -> None:
    record, report, _ = outcome
    assert record.backend == "cpu" and record.timer is None and record.ceilings is None
    assert "No speed was measured" in report and "speedup" not in report.lower()
    assert record.environment.gpu is None
