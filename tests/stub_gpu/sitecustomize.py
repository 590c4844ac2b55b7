"""Gives the real `flashinfer-bench` command a runner that needs no GPU.

Python imports this at start where the folder is on PYTHONPATH. Only the runner is replaced: command line, dataset,
selection, logging and traces are flashinfer-bench's own. A solution says in its first source what becomes of it, in a
line `# stub: WORD...`:

    passed SPEEDUP      status S [LOG]      nan | inf      twice SPEEDUP (two traces)
    missing (the runner returns no result)  lose (the whole workload is lost)     exit (flashinfer-bench dies)
    hang (until killed)                     break (what the persistent runner does to those after a dead worker)
    wait SECONDS SPEEDUP

STUB_LOG names a file that keeps the CUDA_VISIBLE_DEVICES of each runner.
"""

import os
import sys


def _behaviour(solution):
    for line in solution.sources[0].content.splitlines():
        if line.startswith("# stub: "):
            return line.removeprefix("# stub: ").split(" ", 2)
    return ["passed", "2.0"]


def _install():
    import time

    from flashinfer_bench.bench import benchmark
    from flashinfer_bench.data import (
        Correctness,
        Environment,
        Evaluation,
        EvaluationStatus,
        Performance,
    )

    def evaluation(status, log="", correctness=None, performance=None):
        return Evaluation(
            status=EvaluationStatus(status),
            environment=Environment(hardware="stub"),
            timestamp="2026-01-01T00:00:00",
            log=log,
            correctness=correctness,
            performance=performance,
        )

    def passed(speedup):
        return evaluation(
            "PASSED",
            correctness=Correctness(
                max_absolute_error=0.5, max_relative_error=2.0, extra={"matched_ratio": 0.97}
            ),
            performance=Performance(
                latency_ms=10.0 / speedup, reference_latency_ms=10.0, speedup_factor=speedup
            ),
        )

    class StubRunner:
        def __init__(self, log_dir):
            if "STUB_LOG" in os.environ:
                with open(os.environ["STUB_LOG"], "a") as file:
                    file.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\n")

        def close(self):
            pass

        def run_workload(self, definition, workload, solutions, config, root):
            results, broken = {}, False
            for solution in solutions:
                word, *rest = _behaviour(solution)
                if word == "lose":
                    raise RuntimeError("No healthy persistent workers available")
                if word == "exit":
                    os._exit(3)
                if word == "hang":
                    time.sleep(3600)
                if word == "missing":
                    continue
                if broken and word == "passed":
                    result = evaluation(
                        "RUNTIME_ERROR", "Unexpected error: Baseline handle not found: 1"
                    )
                elif word == "wait":
                    time.sleep(float(rest[0]))
                    result = passed(float(rest[1]))
                elif word in ("passed", "twice"):
                    result = passed(float(rest[0]))
                elif word in ("nan", "inf"):
                    error = Correctness(
                        max_absolute_error=float(word), max_relative_error=float(word)
                    )
                    result = evaluation("INCORRECT_NUMERICAL", correctness=error)
                elif word == "break":
                    broken = True
                    result = evaluation("RUNTIME_ERROR", "Connection error during evaluation: ")
                else:
                    wrong = None
                    if rest[0] == "INCORRECT_NUMERICAL":
                        wrong = Correctness(
                            max_absolute_error=9.0,
                            max_relative_error=1.0,
                            extra={"matched_ratio": 0.5},
                        )
                    result = evaluation(rest[0], " ".join(rest[1:]), correctness=wrong)
                results[solution.name] = result
            return results

    benchmark.PersistentRunner = benchmark.IsolatedRunner = StubRunner

    add_traces = benchmark.TraceSet.add_traces

    def add_and_repeat(self, traces):
        sources = {s.name: s for group in self.solutions.values() for s in group}
        again = [t for t in traces if _behaviour(sources[t.solution])[0] == "twice"]
        add_traces(self, [*traces, *again])

    benchmark.TraceSet.add_traces = add_and_repeat


if len(sys.orig_argv) > 1 and sys.orig_argv[1].endswith("flashinfer-bench"):
    _install()
