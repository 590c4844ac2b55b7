"""Compiles solutions side by side: who runs them builds them one after another, and finds them built then.

`python -m harness.prebuild ROOT DEFINITION DONE SOLUTION...` runs in a process of its own, which loads what it has built, makes the
file DONE and then waits until it is ended.
One that cannot be built is no fault here: it is said where the solution is built for use.
"""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from flashinfer_bench.compile import BuilderRegistry, BuildError
from flashinfer_bench.data import TraceSet

from harness.environment import builds_at_once


def main(root: Path, definition: str, done: Path, names: list[str]) -> None:
    """Build the solutions of a staged dataset root, several at a time."""
    os.nice(10)  # others may be under examination
    trace_set = TraceSet.from_path(str(root))
    registry = BuilderRegistry.get_instance()

    def build(name: str) -> None:
        solution = trace_set.get_solution(name)
        with suppress(BuildError):
            registry.build(trace_set.definitions[definition], solution)

    with ThreadPoolExecutor(builds_at_once()) as pool:
        list(pool.map(build, names))
    done.touch()
    signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
