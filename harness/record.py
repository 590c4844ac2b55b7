"""The run record: everything a report needs, in one versioned JSON file.

Reports are functions of a record alone, so any record can be rendered again years later.
"""

import json
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.atomic import write_atomically
from harness.errors import HarnessError
from harness.profile import Profile

SCHEMA_VERSION = 1
RECORD_NAME = "run.json"
PROFILE_NAME = "profile.json"  # of a folder that holds a profile instead


class _Model(BaseModel):
    # Errors may be inf or nan, which JSON lacks: they are written as strings and read back as floats.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Status(str, Enum):
    """Outcome of one solution on one workload: flashinfer-bench's words, and two of our own."""

    PASSED = "PASSED"
    INCORRECT_SHAPE = "INCORRECT_SHAPE"
    INCORRECT_DTYPE = "INCORRECT_DTYPE"
    INCORRECT_NUMERICAL = "INCORRECT_NUMERICAL"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    COMPILE_ERROR = "COMPILE_ERROR"
    TIMEOUT = "TIMEOUT"
    MISSING = "MISSING"
    """No result came back for a cell that was asked for."""
    VERIFY_FAILED = "VERIFY_FAILED"
    """The solution failed verification, so its speed is not measured or not shown; the reason names the check."""
    SKIPPED = "SKIPPED"
    """The solution's `requires` is not met here; the reason says which part."""


class Cell(_Model):
    """One solution on one workload."""

    solution: str
    """Full name of the solution."""
    workload: str
    """Id of the workload."""
    status: Status
    latency_ms: float | None = None
    """Mean over trials of the mean latency of one call; None when no speed was measured."""
    reference_latency_ms: float | None = None
    """The same for the reference, on the same inputs."""
    speedup: float | None = None
    """reference_latency_ms / latency_ms."""
    repeat_latencies_ms: list[float] = Field(default_factory=list)
    """latency_ms of each repetition, whose median latency_ms then is; empty for a single measurement."""
    max_abs_error: float | None = None
    """Largest absolute error of any element in any trial; may be inf or nan."""
    max_rel_error: float | None = None
    """Largest relative error of any element in any trial; may be inf or nan."""
    matched_ratio: float | None = None
    """Share of elements within tolerance, in the worst trial."""
    reason: str | None = None
    """Why the status is not PASSED, in one line."""
    log_tail: str | None = None
    """Last lines of the solution's log, for a cell that did not pass."""
    origin: Literal["trace", "log", "cpu", "harness", "document"] = "trace"
    """Where the cell comes from: a flashinfer-bench trace; only its log line (an interrupted run: speedup in two
    decimals, no latency); the CPU backend; the harness (MISSING, SKIPPED); or a transcribed document."""


class SolutionInfo(_Model):
    """One solution of the comparison."""

    name: str
    """FlashInfer-Bench solution name."""
    label: str
    """Short name, the column heading."""
    folder: str | None
    """Folder under solutions/; None for a solution known from a document only."""
    summary: str
    """The key difference, one line."""
    author: str
    language: str
    state: str
    """What the module keeps between calls: none, workspace or cuda_graph."""
    notes: str = ""
    """Free markdown."""
    source_hash: str | None
    """SHA-256 of the manifest's build keys and all sources; results of different hashes are not comparable."""
    manifest: dict[str, Any] = Field(default_factory=dict)
    """The manifest as it was read."""


class WorkloadInfo(_Model):
    """One workload of the comparison. The three counts come from routing its logits; None when unknown."""

    id: str
    seq_len: int
    """Number of tokens T."""
    local_expert_offset: int
    local_pairs: int | None = None
    """(token, local expert) pairs."""
    local_tokens: int | None = None
    """Tokens with at least one local expert."""
    active_experts: int | None = None
    """Local experts with at least one token."""


class DefinitionInfo(_Model):
    """The operation that was solved."""

    name: str
    axes: dict[str, int]
    """Constant axes, for example hidden_size."""


class DatasetInfo(_Model):
    """Where the workloads came from."""

    kind: Literal["synthetic", "real", "document"]
    suite: str
    """Suite of the synthetic dataset; 'published' for a real one."""
    hash: str | None
    """SHA-256 over definition, workloads and input tensors."""
    seed: int | None
    """Seed of the synthetic routing; None for a real dataset."""


class GpuState(_Model):
    """A snapshot of a GPU's clocks."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttle_reasons: list[str] = Field(default_factory=list)
    other_processes: int | None = None
    """Compute processes on the GPU that are not ours; None when the driver does not say."""


class GpuInfo(_Model):
    """The GPU that everything ran on."""

    name: str
    uuid: str | None = None
    index: int | None = None
    compute_capability: str | None = None
    """For example '9.0'."""
    memory_mib: int | None = None
    driver: str | None = None
    before: GpuState | None = None
    after: GpuState | None = None


class Environment(_Model):
    """What the run ran on and with."""

    gpu: GpuInfo | None
    """None on the CPU backend."""
    cpu: str | None
    host: str | None
    versions: dict[str, str | None]
    """Python, torch, triton, CUDA, flashinfer-bench, sgl-kernel and the like; None: not installed."""
    git_commit: str | None
    git_dirty: bool | None


class Ceilings(_Model):
    """What this GPU can do at best, measured in the same run."""

    read_gb_per_s: float
    """Streaming read of device memory."""
    fp8_tflop_per_s: float
    """Dense FP8 matrix product."""
    method: str
    """How they were measured, one line."""


class Claim(_Model):
    """A statement of a transcribed document that its own table can confirm or contradict."""

    text: str
    """The statement, shortened."""
    metric: str
    """What is claimed; the names are those of harness.report.claims."""
    subject: dict[str, Any] = Field(default_factory=dict)
    """What it is about: solution, other solution, workload, range of T."""
    stated: Any
    """The stated value."""


class Transcription(_Model):
    """Set on a record that was typed in from a document instead of measured by this harness."""

    source: str
    claims: list[Claim]


class CheckResult(_Model):
    """One check of `verify` on one solution."""

    name: str
    outcome: Literal["passed", "failed", "not_applicable", "not_run"]
    """not_applicable: it has no meaning here, such as a check of streams without a GPU; it counts neither way. not_run:
    the process had ended before."""
    detail: str
    """What was found wrong or, when it passed, what was done, in one line."""
    status: Status | None = None
    """How a benchmark would call the fault, where the solution gave no output to judge."""
    log_tail: str | None = None
    """The end of what it said, for instance a traceback."""


class Accuracy(_Model):
    """Errors of one call on one workload against a float64 reference."""

    workload: str
    matched_ratio: float
    """At the run's own tolerance."""
    matched_seed: float
    """Matched ratio at rtol 0.2, atol 0.1."""
    matched_contest: float
    """Matched ratio at rtol 0.3, atol 1."""
    cosine: float
    """Cosine similarity over all elements."""
    max_abs_error: float
    max_rel_error: float


class Verification(_Model):
    """What `verify` found about one solution."""

    solution: str
    source_hash: str
    """Of the sources that were verified."""
    checks: list[CheckResult]
    accuracy: list[Accuracy] = Field(default_factory=list)
    seconds: float
    """Of the examination, less those that it waited for compilers and for other solutions' processes."""

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that found a fault."""
        return [check for check in self.checks if check.outcome == "failed"]

    @property
    def unbuilt(self) -> bool:
        """The solution could not be built, so nothing is known about its conduct."""
        return any(check.name == "build" for check in self.failed)


class VerificationInfo(_Model):
    """The verification stage of a run."""

    form: Literal["full", "short", "none"]
    """none: it was left out, and nothing vouches for the results."""
    seed: int | None = None
    """Of all inputs; None without verification."""
    solutions: list[Verification] = Field(default_factory=list)

    def of(self, solution: str) -> Verification | None:
        """The verdict on one solution, or None."""
        return next((v for v in self.solutions if v.solution == solution), None)


class Resumption(_Model):
    """A run that was taken up again."""

    started: str
    """ISO 8601, UTC."""
    kept_cells: int
    """Cells that were there and still hold: same sources, same surroundings."""
    dropped: list[str] = Field(default_factory=list)
    """Solutions whose sources had changed, so that their cells ran again."""


class RunRecord(_Model):
    """One run of the comparison."""

    schema_version: Literal[1]
    """SCHEMA_VERSION of the harness that wrote it."""
    run_id: str
    backend: Literal["gpu", "cpu", "document"]
    partial: bool = False
    """The run was interrupted; the cells that are here are whole."""
    started: str
    """ISO 8601, UTC."""
    ended: str
    command: list[str]
    """The command line that made the record."""
    benchmark_commands: list[list[str]] = Field(default_factory=list)
    """Every `flashinfer-bench run` command line, in order, with paths relative to the project."""
    timer: str | None
    """What measured the latencies; numbers of different timers are not comparable."""
    profile_name: str
    profile: Profile
    definition: DefinitionInfo
    dataset: DatasetInfo
    solutions: list[SolutionInfo]
    """In the order asked for."""
    workloads: list[WorkloadInfo]
    """Sorted by number of tokens."""
    repeats: int = 1
    """How often everything was measured, each time with the solutions in another order."""
    cells: list[Cell]
    """One per (workload, solution) of the grid, MISSING ones included."""
    environment: Environment
    ceilings: Ceilings | None = None
    warnings: list[str] = Field(default_factory=list)
    """What a reader should know before trusting the numbers, one sentence each."""
    transcription: Transcription | None = None
    verification: VerificationInfo | None = None
    """None: a record from before verification existed."""
    resumptions: list[Resumption] = Field(default_factory=list)

    @model_validator(mode="after")
    def _of_one_grid(self) -> "RunRecord":
        """Every statistic counts on it: no name stands twice, and every cell belongs to a solution and a workload."""
        solutions = [solution.name for solution in self.solutions]
        workloads = [workload.id for workload in self.workloads]
        keys = [(cell.solution, cell.workload) for cell in self.cells]
        for what, names in (("solution", solutions), ("workload", workloads), ("cell", keys)):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{what} {twice} is there twice")
        known = {(solution, workload) for solution in solutions for workload in workloads}
        if strange := [key for key in keys if key not in known]:
            raise ValueError(f"cell {strange[0]} is of no solution or workload of the record")
        return self

    def cell(self, solution: str, workload: str) -> Cell:
        """The cell of one solution and workload; KeyError when the grid has none."""
        for cell in self.cells:
            if cell.solution == solution and cell.workload == workload:
                return cell
        raise KeyError((solution, workload))

    def all_passed(self) -> bool:
        """Whether every cell passed, leaving aside solutions that cannot run here; False if none could."""
        statuses = {cell.status for cell in self.cells}
        good = {Status.PASSED, Status.SKIPPED}
        return not self.partial and Status.PASSED in statuses and statuses <= good


def save_record(record: RunRecord, folder: Path) -> Path:
    """Write `folder`/run.json atomically and return its path."""
    path = folder / RECORD_NAME
    write_atomically(path, record.model_dump_json(indent=1, exclude_defaults=False) + "\n")
    return path


def load_record(folder: Path) -> RunRecord:
    """Read `folder`/run.json.

    Raises:
        HarnessError: absent, not JSON, of another schema version or otherwise not a record.
    """
    path = folder / RECORD_NAME
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return RunRecord.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise HarnessError(f"{path}: no such record; {_where_else(folder)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({error}); mend the file") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise HarnessError(
            _other_schema(path, text)
            or f"{path}: key '{key}': {first['msg']}; the file is damaged, or a later version of the harness wrote it"
        ) from None


def _where_else(folder: Path) -> str:
    """What to give instead of a folder without a record."""
    if (folder / PROFILE_NAME).is_file():
        return f"{folder} holds a profile; read its {PROFILE_NAME}"
    near = get_close_matches(folder.name, [other.name for other in recorded(folder.parent)], n=1)
    return "name a folder under results/ that has one" + (f", nearest: {near[0]}" if near else "")


def recorded(results: Path) -> list[Path]:
    """The folders with a record, sorted by name."""
    return sorted(path.parent for path in results.glob(f"*/{RECORD_NAME}"))


def _other_schema(path: Path, text: str) -> str | None:
    """Why a record of another schema cannot be read and what can read it; None for one of this schema."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # the latter: nested without end
        return None
    if not isinstance(data, dict) or data.get("schema_version") == SCHEMA_VERSION:
        return None
    environment = data.get("environment")
    commit = environment.get("git_commit") if isinstance(environment, dict) else None
    return (
        f"{path}: key 'schema_version': {data.get('schema_version', 'missing')}, and this version of the harness reads "
        f"{SCHEMA_VERSION}; render it with the version that wrote it"
        + (f", commit {commit}" if commit else "")
    )
