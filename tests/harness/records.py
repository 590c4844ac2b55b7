"""Small run records for tests, each about one situation that a report must show."""

from typing import Any

from harness.profile import Profile
from harness.record import (
    SCHEMA_VERSION,
    Accuracy,
    Ceilings,
    Cell,
    CheckResult,
    DatasetInfo,
    DefinitionInfo,
    Environment,
    GpuInfo,
    GpuState,
    RunRecord,
    SolutionInfo,
    Status,
    Verification,
    VerificationInfo,
    WorkloadInfo,
)
from harness.verify.stage import refusals, refused_cells, without_impossible

AXES = {
    "num_experts": 256,
    "num_local_experts": 32,
    "hidden_size": 7168,
    "intermediate_size": 2048,
    "gemm1_out_size": 4096,
    "num_hidden_blocks": 56,
    "num_intermediate_blocks": 16,
    "num_gemm1_out_blocks": 32,
}
CEILINGS = Ceilings(
    read_gb_per_s=4400.0, fp8_tflop_per_s=1300.0, method="best of 40 reads; one 8192^3 product"
)
W1 = WorkloadInfo(
    id="11111111-5603-4a1c-b34c-dcce0ecaeea4",
    seq_len=1,
    local_expert_offset=32,
    local_pairs=3,
    local_tokens=1,
    active_experts=3,
)
W57 = WorkloadInfo(
    id="57575757-0365-4cf8-a824-ce61b7131dea",
    seq_len=57,
    local_expert_offset=96,
    local_pairs=63,
    local_tokens=28,
    active_experts=28,
)
W901 = WorkloadInfo(
    id="90190190-3cd2-4d7d-b716-84f2d52b69fc",
    seq_len=901,
    local_expert_offset=96,
    local_pairs=1331,
    local_tokens=565,
    active_experts=32,
)
W14107 = WorkloadInfo(
    id="14107141-f2a9-42d5-8dce-9419cbf34d5d",
    seq_len=14107,
    local_expert_offset=32,
    local_pairs=16099,
    local_tokens=8030,
    active_experts=32,
)
WORKLOADS = [W1, W57, W901, W14107]
REFERENCE_MS = {1: 12.0, 57: 16.0, 901: 20.0, 14107: 45.0}

FULL_GPU = GpuInfo(
    name="NVIDIA H200",
    uuid="GPU-0",
    index=0,
    compute_capability="9.0",
    memory_mib=143771,
    driver="580.00",
    before=GpuState(sm_clock_mhz=1980, memory_clock_mhz=3201, temperature_c=35, power_w=80.4),
    after=GpuState(
        sm_clock_mhz=1755,
        memory_clock_mhz=3201,
        temperature_c=61,
        power_w=402.0,
        throttle_reasons=["software power cap"],
        other_processes=1,
    ),
)


def solution(label: str, **changes: Any) -> SolutionInfo:
    """A solution whose full name is `label` + '_moe'."""
    values: dict[str, Any] = {
        "name": f"{label}_moe",
        "label": label,
        "folder": label,
        "summary": f"What makes {label} different",
        "author": "somebody",
        "language": "triton",
        "state": "none",
        "source_hash": (label * 64).encode().hex()[:64],
    }
    return SolutionInfo(**(values | changes))


def passed(label: str, workload: WorkloadInfo, latency_ms: float, **changes: Any) -> Cell:
    """A cell that passed, with the speedup that its latency gives."""
    reference_ms = REFERENCE_MS[workload.seq_len]
    values: dict[str, Any] = {
        "latency_ms": latency_ms,
        "reference_latency_ms": reference_ms,
        "speedup": reference_ms / latency_ms,
        "max_abs_error": 0.5,
        "max_rel_error": 12.25,
        "matched_ratio": 0.98765,
    }
    return Cell(
        solution=f"{label}_moe",
        workload=workload.id,
        status=Status.PASSED,
        **(values | changes),
    )


def failed(label: str, workload: WorkloadInfo, status: str, **changes: Any) -> Cell:
    """A cell that did not pass."""
    return Cell(solution=f"{label}_moe", workload=workload.id, status=Status(status), **changes)


def speeds(**by_label: dict[int, float]) -> RunRecord:
    """A record with just speedups, by label and number of tokens; absent ones are MISSING."""
    workloads = {
        tokens: WorkloadInfo(id=f"w{tokens}", seq_len=tokens, local_expert_offset=0)
        for tokens in sorted({t for values in by_label.values() for t in values})
    }
    cells = [
        Cell(
            solution=f"{label}_moe",
            workload=f"w{tokens}",
            status=Status.PASSED if tokens in values else Status.MISSING,
            speedup=values.get(tokens),
        )
        for label, values in by_label.items()
        for tokens in workloads
    ]
    return record([solution(label) for label in by_label], list(workloads.values()), cells)


def record(
    solutions: list[SolutionInfo],
    workloads: list[WorkloadInfo],
    cells: list[Cell],
    **changes: Any,
) -> RunRecord:
    """A GPU record around these cells."""
    values: dict[str, Any] = {
        "run_id": "2026-03-04-h200",
        "backend": "gpu",
        "schema_version": SCHEMA_VERSION,
        "started": "2026-03-04T05:06:07Z",
        "ended": "2026-03-04T05:10:00Z",
        "command": ["make", "bench", "SOLUTIONS=a b", "PROFILE=seed"],
        "benchmark_commands": [
            ["flashinfer-bench", "run", "--local", "build/runs/x/root", "--timeout", "600"]
        ],
        "timer": "CUDA events, mean of means (flashinfer-bench 0.1.2)",
        "profile_name": "seed",
        "profile": Profile(
            summary="seed",
            rtol=0.2,
            atol=0.1,
            required_matched_ratio=0.85,
            warmup_runs=5,
            iterations=20,
            num_trials=3,
            timeout=600,
            runner="persistent",
        ),
        "definition": DefinitionInfo(name="moe_fp8", axes=AXES),
        "dataset": DatasetInfo(kind="synthetic", suite="published", hash="ab" * 32, seed=7),
        "solutions": solutions,
        "workloads": workloads,
        "cells": cells,
        "environment": Environment(
            gpu=FULL_GPU,
            cpu="A CPU",
            host="somewhere",
            versions={"torch": "2.11.0", "python": "3.11.7", "sgl-kernel": None},
            git_commit="c0ffee",
            git_dirty=False,
        ),
        "ceilings": CEILINGS,
    }
    # A copy, so that a test may change what it got.
    return RunRecord(**(values | changes)).model_copy(deep=True)


def set_gpu(one: RunRecord, name: str) -> None:
    """Have a record say that it ran on another GPU."""
    assert one.environment.gpu
    one.environment.gpu.name = name


def four_way() -> RunRecord:
    """All pass; two solutions tie at T=14107; hostile text in a summary, notes and a warning."""
    latencies = {
        "a": {1: 0.8, 57: 0.8, 901: 1.0, 14107: 12.0},
        "b": {1: 0.5, 57: 0.7, 901: 0.9, 14107: 10.0},
        "c": {1: 0.3, 57: 0.5, 901: 0.8, 14107: 9.0},
        "d": {1: 0.6, 57: 0.45, 901: 0.85, 14107: 9.001},
    }
    notes = "# A heading\n\n```\nan open fence"
    return record(
        [
            solution("a"),
            solution("b", summary="splits a | b\nover <two> lines", state="workspace"),
            solution("c", notes=notes),
            solution("d", state="cuda_graph"),
        ],
        WORKLOADS,
        [passed(s, w, latencies[s][w.seq_len]) for w in WORKLOADS for s in "abcd"],
        benchmark_commands=[["flashinfer-bench", "run", "--local", "x"]] * 3,
        warnings=["another process | used the GPU"],
    )


def failures() -> RunRecord:
    """One wrong result with an infinite error, one that never compiles, one skipped, one right."""
    log = "\x1b[31merror\x1b[0m: a | b\n```\nwithin a fence\n```\r\n<b>end</b>"
    cells = []
    for workload in (W1, W57):
        cells += [
            passed("right", workload, 0.4),
            failed(
                "broken", workload, "COMPILE_ERROR", reason="nvcc: a | `b`\nfailed", log_tail=log
            ),
            failed("absent", workload, "SKIPPED", reason="needs compute capability 10.0"),
        ]
    cells += [
        passed("wrong", W1, 0.1),
        failed(
            "wrong",
            W57,
            "INCORRECT_NUMERICAL",
            reason="wrong values",
            matched_ratio=0.84999,
            max_abs_error=float("inf"),
            max_rel_error=float("nan"),
            latency_ms=0.001,
            speedup=16000.0,
        ),
    ]
    labels = ("wrong", "right", "broken", "absent")
    return record([solution(label) for label in labels], [W1, W57], cells)


def partial() -> RunRecord:
    """Interrupted: one solution lacks its last workload, the other two, which the record omits."""
    cells = [
        passed("a", W1, 0.8),
        passed("b", W1, 0.5),
        Cell(solution="a_moe", workload=W57.id, status=Status.PASSED, speedup=20.25, origin="log"),
        failed("b", W57, "MISSING", reason="the run was interrupted", origin="harness"),
    ]
    return record([solution("a"), solution("b")], [W1, W57, W901], cells, partial=True)


def single_solution() -> RunRecord:
    """Nothing to compare with; uncommitted changes; a real dataset."""
    return record(
        [solution("a")],
        WORKLOADS,
        [passed("a", w, 12.0 if w is W14107 else 0.5) for w in WORKLOADS],
        environment=Environment(
            gpu=FULL_GPU, cpu=None, host=None, versions={}, git_commit="c0ffee", git_dirty=True
        ),
        dataset=DatasetInfo(kind="real", suite="published", hash="cd" * 32, seed=None),
    )


def single_workload() -> RunRecord:
    """One workload, without ceilings."""
    return record(
        [solution("a"), solution("b")],
        [W57],
        [passed("a", W57, 0.5), passed("b", W57, 0.51)],
        ceilings=None,
    )


def baseline() -> RunRecord:
    """The flashinfer baseline ran and is ahead."""
    return record(
        [solution("a"), solution("b"), solution("flashinfer_moe")],
        [W1, W901],
        [
            *(passed("a", w, 0.6) for w in (W1, W901)),
            *(passed("b", w, 0.5) for w in (W1, W901)),
            passed("flashinfer_moe", W1, 0.4),
            passed("flashinfer_moe", W901, 0.55),
        ],
    )


def nothing_passed() -> RunRecord:
    """No cell passed, and no reason is known for one."""
    return record(
        [solution("a"), solution("b")],
        [W1],
        [failed("a", W1, "TIMEOUT", reason="no answer in 600 s"), failed("b", W1, "RUNTIME_ERROR")],
    )


def cpu() -> RunRecord:
    """The CPU backend: results and matched ratios only."""
    workloads = [
        WorkloadInfo(id="one-token", seq_len=1, local_expert_offset=32),
        WorkloadInfo(id="all-local", seq_len=19, local_expert_offset=160),
    ]

    def checked(label: str, workload: WorkloadInfo, ratio: float, right: bool = True) -> Cell:
        return Cell(
            solution=f"{label}_moe",
            workload=workload.id,
            status=Status.PASSED if right else Status.INCORRECT_NUMERICAL,
            matched_ratio=ratio,
            max_abs_error=0.25,
            max_rel_error=3.5,
            reason=None if right else "too few elements match",
            origin="cpu",
        )

    return record(
        [solution("a"), solution("b")],
        workloads,
        [
            checked("a", workloads[0], 1.0),
            checked("b", workloads[0], 0.99996),
            checked("a", workloads[1], 0.93),
            checked("b", workloads[1], 0.5, right=False),
        ],
        run_id="2026-03-04-cpu",
        backend="cpu",
        benchmark_commands=[],
        timer=None,
        environment=Environment(
            gpu=None,
            cpu="A CPU",
            host="somewhere",
            versions={"torch": "2.13.0"},
            git_commit=None,
            git_dirty=None,
        ),
        ceilings=None,
    )


def repeated() -> RunRecord:
    """Five repetitions: a and b cannot be told apart at T=1, can at T=57; c was measured once."""
    latencies = {
        ("a", W1.id): [0.50, 0.49, 0.52, 0.51, 0.50],
        ("b", W1.id): [0.51, 0.50, 0.50, 0.53, 0.51],
        ("a", W57.id): [0.70, 0.71, 0.70, 0.72, 0.70],
        ("b", W57.id): [0.60, 0.61, 0.60, 0.60, 0.62],
    }
    cells = []
    for workload in (W1, W57):
        for label in "ab":
            values = latencies[label, workload.id]
            middle = sorted(values)[2]
            cells.append(passed(label, workload, middle, repeat_latencies_ms=values))
        cells.append(passed("c", workload, 0.8))
    return record([solution(label) for label in "abc"], [W1, W57], cells, repeats=5)


def verdict(label: str, *failed: str) -> Verification:
    """What verification found; `failed` are the checks that did not pass."""
    checks = [CheckResult(name="repeat", outcome="passed", detail="equal bit by bit")]
    checks += [CheckResult(name=name, outcome="failed", detail=f"why {name}") for name in failed]
    accuracy = Accuracy(
        workload=W1.id,
        matched_ratio=0.97654,
        matched_seed=0.97654,
        matched_contest=0.98765,
        cosine=0.99912,
        max_abs_error=3.25,
        max_rel_error=17.5,
    )
    return Verification(
        solution=f"{label}_moe",
        source_hash="0" * 64,
        checks=checks,
        accuracy=[] if failed else [accuracy],
        seconds=1.0,
    )


def verified() -> RunRecord:
    """`right` and `quick` were timed; `bad` failed before, and `quick` was faster than the GPU can be."""
    labels = ("right", "bad", "quick")
    info = VerificationInfo(
        form="full",
        seed=77,
        solutions=[verdict("right"), verdict("bad", "many_calls"), verdict("quick")],
    )
    cells = [
        passed("right", W1, 0.4),
        passed("quick", W1, 0.001),
        *refused_cells(refusals(info), [W1]),
    ]
    made = record([solution(x) for x in labels], [W1], cells)
    judged = without_impossible(made.cells, made.workloads, made.definition, made.ceilings)
    return made.model_copy(update={"cells": judged, "verification": info})


def all_verified() -> RunRecord:
    """Every solution passed verification; the commit had uncommitted changes, and the run had a name."""
    info = VerificationInfo(form="full", seed=77, solutions=[verdict("a"), verdict("b")])
    made = record(
        [solution("a"), solution("b")],
        [W1],
        [passed("a", W1, 0.4), passed("b", W1, 0.5)],
        command=["python", "-m", "harness", "bench", "a", "b", "--run", "mine", "--verify"],
    )
    made.environment.git_dirty = True
    return made.model_copy(update={"verification": info})


def nine_by_nineteen() -> RunRecord:
    """The size of a full comparison: nine solutions on nineteen workloads, two cells failed with a long log."""
    tokens = [1, 7, 14, 15, 16, 32, *range(52, 60), 62, 80, 901, 11948, 14107]
    workloads = [
        W57.model_copy(update={"id": f"w{number:02}", "seq_len": T})
        for number, T in enumerate(tokens)
    ]
    labels = [f"solution_{number}" for number in range(1, 10)]
    log = "\n".join(f"line {number} of a log" for number in range(40))
    cells = []
    for row, workload in enumerate(workloads):
        for column, label in enumerate(labels):
            if column == 8 and row in (3, 18):
                cells.append(failed(label, workload, "RUNTIME_ERROR", reason="died", log_tail=log))
                continue
            latency = 0.3 + 0.02 * row + 0.05 * column
            speed = {"reference_latency_ms": 15.0, "speedup": 15.0 / latency}
            cells.append(
                Cell(
                    solution=f"{label}_moe",
                    workload=workload.id,
                    status=Status.PASSED,
                    latency_ms=latency,
                    matched_ratio=0.99 - 0.001 * column,
                    **speed,
                )
            )
    return record([solution(label) for label in labels], workloads, cells)


ALL = {
    maker.__name__: maker
    for maker in (
        four_way,
        failures,
        partial,
        single_solution,
        single_workload,
        baseline,
        nothing_passed,
        cpu,
        repeated,
        verified,
        all_verified,
    )
}
