"""Examines solutions one after another, each in a child of its own, and gives a verdict on each."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch

from harness.atomic import write_atomically
from harness.bench import gpu_environment
from harness.cells import anonymous
from harness.cpu import cpu_environment
from harness.dataset import stage
from harness.environment import VISIBLE, Gpu
from harness.errors import HarnessError
from harness.lock import drop_abandoned
from harness.manifest import Variant
from harness.plan import Plan
from harness.record import Accuracy, Ceilings, CheckResult, Verification, WorkloadInfo
from harness.roofline import floor_of
from harness.verify import accuracy, sanitizer
from harness.verify.ahead import Ahead
from harness.verify.cases import Case, Seeds, Weights
from harness.verify.checks import CHECKS, Check
from harness.verify.compare import Tolerance
from harness.verify.effort import Form, effort_for
from harness.verify.exam import Exam, Failed, NotApplicable, References
from harness.verify.inputs import Sizes, limit_threads
from harness.verify.references import TooManyChoices, route
from harness.verify.sanity import check_tolerance
from harness.verify.session import Died, Fault, OutOfTime, Refused, Session

BUILD_S = 900  # nvcc
COMMAND_S = 120  # a first call may compile dozens of kernels
SOLUTION_S = {"gpu": 600, "cpu": 900}
"""For all checks on one solution, after it was built."""
FAILED_S = 60  # for what comes after its first fault
UNDER_TOOL = 10  # times as long under compute-sanitizer
BUILD = "build"
WEIGHTS = "weights"  # made in the child, before the first check
FLOOR_TOKENS = (1, 57)


@dataclass
class Judge:
    """Verifies the solutions of one plan.

    Args:
        say: takes one line of progress.
        seed: of all cases; drawn when the run begins and not known to any solution before.
    """

    plan: Plan
    form: Form
    seed: int
    say: Callable[[str], None]
    tools: tuple[str, ...] = ()
    only: frozenset[str] = frozenset()
    """Names of the checks to run; empty: all of the form."""
    ceilings: Ceilings | None = None
    compiled: Callable[[], None] = lambda: None
    """Returns when nothing is being compiled any more (`Prebuild.wait`)."""
    references: References = field(init=False)
    seeds: Seeds = field(init=False)
    tolerance: Tolerance = field(init=False)
    _ahead: Ahead = field(init=False)
    _waited_s: float = field(init=False, default=0.0)
    """Seconds that the present examination has waited for compilers and for other solutions' children."""

    def __post_init__(self) -> None:
        plan = self.plan
        if plan.gpu is not None:
            _open_gpu(plan.gpu)
        device = "cpu" if plan.gpu is None else "cuda:0"
        limit_threads(device)
        known = [check.name for check in CHECKS]
        if unknown := self.only - set(known):
            raise HarnessError(
                f"CHECKS: no check is called {', '.join(sorted(unknown))}; there are: {', '.join(known)}"
            )
        self._ahead = Ahead(lambda variant, extra: self._child(variant, extra=extra), self.say)
        self.seeds = Seeds(self.seed)
        sizes = Sizes.of(plan.definition.const_axes)
        self.references = References(sizes, device)
        p = plan.profile
        self.tolerance = Tolerance(p.rtol, p.atol, p.required_matched_ratio)
        try:
            check_tolerance(plan.profile_name, self.tolerance, self.references, self.seeds)
        except torch.OutOfMemoryError:
            raise HarnessError(
                f"verify: {plan.gpu.info.name if plan.gpu else 'the CPU'} has no memory left for the reference; end what "
                "else uses it, or leave verification out with VERIFY=0"
            ) from None

    def close(self) -> None:
        """End the children that wait, and let go of the GPU's memory, so that a benchmark has it."""
        self._ahead.close()
        self.references = References(self.references.sizes, self.references.device)
        if self.plan.gpu is not None:
            torch.cuda.empty_cache()

    def expect(self, variant: Variant) -> None:
        """Start the child of the first solution, which imports what it needs while the caller does something else; `close` ends it."""
        self._ahead.expect(variant)

    def verify(self, variant: Variant, following: Sequence[Variant] = ()) -> Verification:
        """All checks on one solution; the child that ran it is gone when this returns.

        Args:
            following: the solutions that come after it, in order. The children of some are started meanwhile.
        """
        start, self._waited_s = time.monotonic(), 0.0
        checks, found = self._examine(variant, following)
        checks += [self._under(tool, variant) for tool in self.tools]
        result = Verification(
            solution=variant.name,
            source_hash=variant.source_hash(),
            checks=checks,
            accuracy=found,
            seconds=round(time.monotonic() - start - self._waited_s, 1),
        )
        self.say(f"{variant.label}: {summary(result)} in {result.seconds:.0f} s")
        return result

    def sanitize(self, tool: str, program: str, variant: Variant) -> CheckResult:
        """A few small calls under a tool of compute-sanitizer, which lies at `program`."""
        if tool == "memcheck" and variant.manifest.state == "cuda_graph":
            why = "a CUDA graph needs the allocator that hides bounds from memcheck"
            return CheckResult(
                name=sanitizer.check_name(tool), outcome="not_applicable", detail=why
            )
        wrapper, extra = sanitizer.command(tool, program), sanitizer.environment(tool)
        with self._opened(variant, wrapper, extra) as exam:
            try:
                self._load(exam, UNDER_TOOL)
                found = sanitizer.run(tool, exam)
            except _Over as over:
                why = sanitizer.cause(exam.session.tail(), over.result.detail)
                named = {"name": sanitizer.check_name(tool), "detail": why}
                found = over.result.model_copy(update=named)
            if found.outcome == "failed":  # the record has the end of it alone
                path = self.plan.folder / f"{variant.folder.name}-{tool}.log"
                write_atomically(path, anonymous(exam.session.tail()) + "\n")
                found = found.model_copy(update={"detail": f"{found.detail}; see {path.name}"})
            return found

    def _examine(
        self, variant: Variant, following: Sequence[Variant]
    ) -> tuple[list[CheckResult], list[Accuracy]]:
        checks: list[CheckResult] = []
        found: list[Accuracy] = []
        with self._opened(variant) as exam:
            self._ahead.start(following)
            try:
                self._load(exam)
                for check in self._checks():
                    if check.alone:
                        self._settle(exam)
                    checks.append(self._run(check, exam, variant))
                    if checks[-1].outcome == "failed":
                        exam.session.limit(FAILED_S)
                if self.form == "full" and not self.only and not _faults(checks):
                    found = self._accuracy(exam, checks, variant)
            except _Over as over:
                if not (over.late and _faults(checks)):  # else it is no fault of this check
                    self.say(f"{variant.label}: {over.result.name} FAILED, {over.result.detail}")
                    checks.append(over.result)
        done = {check.name for check in checks}
        checks += [
            CheckResult(name=check.name, outcome="not_run", detail=f"after {_faults(checks)[-1]}")
            for check in self._checks()
            if check.name not in done
        ]
        return checks, found

    @contextmanager
    def _opened(
        self, variant: Variant, wrapper: Sequence[str] = (), extra: Mapping[str, str] | None = None
    ) -> Iterator[Exam]:
        """A child that is about to load the solution: the one that waits for its turn, or a new one."""
        if variant.is_compiled_once:
            self._wait_for(self.compiled)
        with ExitStack() as end:
            session = None if wrapper else self._ahead.take(variant.name, end)
            if session is None:
                session = end.enter_context(self._child(variant, wrapper, extra))
            yield self._exam(variant, session)

    def _settle(self, exam: Exam) -> None:
        """Let compilers and the children that wait come to rest, at no expense of the solution under examination."""
        exam.session.extend(self._wait_for(self.compiled, self._ahead.settle))

    def _wait_for(self, *others: Callable[[], None]) -> float:
        """Wait until each returns, which counts for nobody; the seconds."""
        start = time.monotonic()
        for come_to_rest in others:
            come_to_rest()
        seconds = time.monotonic() - start
        self._waited_s += seconds
        return seconds

    @contextmanager
    def _child(
        self, variant: Variant, wrapper: Sequence[str] = (), extra: Mapping[str, str] | None = None
    ) -> Iterator[Session]:
        """A new child, on a staged root of its own."""
        plan = self.plan
        root = stage(
            plan.dataset,
            [variant],
            [w.id for w in plan.workloads],
            plan.scratch / f"verify-{variant.name}",
        )
        command = [str(root), plan.definition.name, variant.name, self.references.device]
        env = cpu_environment(variant, plan) if plan.gpu is None else gpu_environment(plan)
        drop_abandoned(plan.paths.kernel_cache)
        times = UNDER_TOOL if wrapper else 1
        limit = times * min(plan.profile.timeout, COMMAND_S)
        try:
            env = {**env, **(extra or {})}
            with Session(command, env=env, timeout_s=limit, wrapper=wrapper) as session:
                yield session
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _exam(self, variant: Variant, session: Session) -> Exam:
        on_gpu = self.plan.gpu is not None
        effort = effort_for(self.form, on_gpu, variant.manifest.language)
        exam = Exam(session, self.references, self.tolerance, effort, self.seeds)
        if on_gpu and self.ceilings:
            exam.floor_us = self._floors(exam)
        return exam

    def _load(self, exam: Exam, times: int = 1) -> None:
        """Have the solution built; then it has `times` the usual limit."""
        try:
            exam.session.build(times * BUILD_S)
        except (Died, Refused) as error:
            raise _Over(_failure(BUILD, error)) from None
        try:
            exam.set_weights(Weights(self.seeds.of("weights")))
        except (Died, Refused) as error:
            raise _Over(_failure(WEIGHTS, error)) from None
        exam.session.limit(times * SOLUTION_S["gpu" if exam.on_gpu else "cpu"])

    def _checks(self) -> list[Check]:
        return [
            check
            for check in CHECKS
            if (check.in_short or self.form == "full")
            and (not self.only or check.name in self.only)
        ]

    def _run(self, check: Check, exam: Exam, variant: Variant) -> CheckResult:
        if check.needs_gpu and self.plan.gpu is None:
            return CheckResult(name=check.name, outcome="not_applicable", detail="needs a GPU")
        try:
            detail = check.run(exam)
        except Failed as error:
            self.say(f"{variant.label}: {check.name} FAILED, {error}")
            return _failure(check.name, error)
        except NotApplicable as reason:
            return CheckResult(name=check.name, outcome="not_applicable", detail=str(reason))
        except (Fault, RuntimeError) as error:  # no use in calling it again
            raise _Over(_failure(check.name, error), late=isinstance(error, OutOfTime)) from None
        return CheckResult(name=check.name, outcome="passed", detail=detail)

    def _accuracy(self, exam: Exam, checks: list[CheckResult], variant: Variant) -> list[Accuracy]:
        found = []
        for workload in self.plan.workloads:
            if workload.seq_len > exam.effort.accuracy:
                continue
            try:
                found.append(accuracy.measure(exam, self.plan.dataset, workload))
            except TooManyChoices as error:
                self.say(f"{workload.id}: left out of the accuracy report, {error}")
            except (Failed, Fault, RuntimeError) as error:
                checks.append(_failure("accuracy", error))
                self.say(f"{variant.label}: accuracy FAILED, {checks[-1].detail}")
                break
        return found

    def _under(self, tool: str, variant: Variant) -> CheckResult:
        program = sanitizer.find()
        if self.plan.gpu is not None and program is not None:
            return self.sanitize(tool, program, variant)
        why = "needs a GPU" if self.plan.gpu is None else "compute-sanitizer is not installed"
        name = sanitizer.check_name(tool)
        return CheckResult(name=name, outcome="not_applicable", detail=why)

    def _floors(self, exam: Exam) -> dict[int, float]:
        """Floor in us by T, of the cases that the timing checks use."""
        found = {}
        for tokens in FLOOR_TOKENS:
            workload = counts(exam.case(tokens, "timed", routing="half_local"), self.references)
            floor = floor_of(self.plan.definition.info(), workload, self.ceilings)
            if floor is not None:
                found[tokens] = floor.us
        return found


def _open_gpu(gpu: Gpu) -> None:
    """Give this process a context on the chosen GPU, which it sees alone, as the children do.

    Raises:
        HarnessError: torch has no CUDA here.
    """
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpu.info.uuid or str(gpu.index)
    try:
        if not torch.cuda.is_available():
            raise HarnessError(
                f"verify: torch {torch.__version__} sees no GPU although the driver lists {gpu.info.name}; "
                "run `make setup TARGET=gpu`, or leave verification out with VERIFY=0"
            )
        torch.cuda.init()
    finally:  # what else asks for GPUs here counts as the user does
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before


class _Over(Exception):
    """The child cannot go on; the result says why."""

    def __init__(self, result: CheckResult, late: bool = False):
        super().__init__(result.detail)
        self.result = result
        self.late = late
        """The time for all checks was up."""


def _failure(check: str, error: Exception) -> CheckResult:
    return CheckResult(
        name=check,
        outcome="failed",
        detail=_said(error),
        status=getattr(error, "status", None),
        log_tail=getattr(error, "log_tail", None),
    )


def _said(error: Exception) -> str:
    """What happened. A CUDA error is this process's own here, as the child's come as Refused: a solution that fills or breaks
    the GPU leaves no place for the reference.

    Raises:
        RuntimeError: `error`, if it is a fault of the harness itself.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return "no memory was left on the device for the reference beside the solution's process"
    if not isinstance(error, RuntimeError):
        return str(error)
    if not any(word in str(error) for word in ("CUDA", "CUBLAS")):
        raise error
    return f"the reference could not be computed beside the solution's process: {str(error).splitlines()[0]}"


def _faults(checks: list[CheckResult]) -> list[str]:
    return [check.name for check in checks if check.outcome == "failed"]


def counts(case: Case, references: References) -> WorkloadInfo:
    """What a case's routing asks for, in the terms of a workload."""
    inputs = references.activations(case)
    ids, _ = route(inputs["routing_logits"].double().cpu(), inputs["routing_bias"].double().cpu())
    local = (ids >= case.offset) & (ids < case.offset + references.sizes.local)
    return WorkloadInfo(
        id=case.what,
        seq_len=case.tokens,
        local_expert_offset=case.offset,
        local_pairs=int(local.sum()),
        local_tokens=int(local.any(dim=1).sum()),
        active_experts=len(ids[local].unique()),
    )


def summary(found: Verification) -> str:
    """A verdict in a few words."""
    failed = [check.name for check in found.checks if check.outcome == "failed"]
    passed = sum(check.outcome == "passed" for check in found.checks)
    if failed:
        return f"FAILED {', '.join(failed)}"
    aside = sum(check.outcome == "not_applicable" for check in found.checks)
    return f"passed {passed} checks" + (f", {aside} not applicable here" if aside else "")
