"""Traces and log lines become cells with reasons; nothing of this machine's folders stays in them."""

import math

from harness.cells import (
    anonymous,
    cell_from_line,
    cell_from_trace,
    in_grid_order,
    is_collateral,
    tail,
)
from harness.paths import PROJECT
from harness.profile import load_profile
from harness.record import Cell, Status

PROFILE = load_profile(PROJECT / "configs", "seed")


def trace(status: str, log: str = "", **evaluation: object) -> dict:
    return {
        "solution": "s",
        "workload": {"uuid": "w"},
        "evaluation": {"status": status, "log": log, **evaluation},
    }


def test_passed() -> None:
    performance = {"latency_ms": 0.5, "reference_latency_ms": 10.0, "speedup_factor": 20.0}
    correctness = {
        "max_absolute_error": 1.5,
        "max_relative_error": "Infinity",
        "extra": {"matched_ratio": 0.93},
    }
    cell = cell_from_trace(
        trace("PASSED", "noise", performance=performance, correctness=correctness), PROFILE
    )
    assert (cell.latency_ms, cell.reference_latency_ms, cell.speedup) == (0.5, 10.0, 20.0)
    assert cell.matched_ratio == 0.93 and cell.max_rel_error == math.inf
    assert cell.reason is None and cell.log_tail is None


def test_reason_is_the_last_exception() -> None:
    log = "line\nTraceback (most recent call last):\n  File x\nValueError: first\n\ntorch.OutOfMemoryError: CUDA out\nbye"
    cell = cell_from_trace(trace("RUNTIME_ERROR", log), PROFILE)
    assert cell.reason == "torch.OutOfMemoryError: CUDA out"
    assert cell.log_tail == log


def test_reason_without_a_log() -> None:
    assert "without a log" in (cell_from_trace(trace("RUNTIME_ERROR"), PROFILE).reason or "")


def test_logs_are_cut_and_anonymous() -> None:
    text = tail("\n".join(f"{i} {PROJECT}/solutions/x.py" for i in range(1000)))
    assert len(text) <= 4000 and len(text.splitlines()) <= 40
    assert str(PROJECT) not in text and text.endswith("999 ./solutions/x.py")
    assert anonymous(f"{PROJECT}/a") == "./a"


def test_log_lines() -> None:
    prefix = "[12:00:00] INFO flashinfer_bench - "
    cell = cell_from_line(f"{prefix}Solution 'a b' for workload w-1: PASSED with 12.34x speedup")
    assert cell and (cell.solution, cell.workload, cell.speedup) == ("a b", "w-1", 12.34)
    assert cell.origin == "log" and cell.latency_ms is None
    cell = cell_from_line(f"{prefix}Solution 'a' for workload w-1: COMPILE_ERROR")
    assert cell and cell.status is Status.COMPILE_ERROR
    assert cell_from_line("Solution of everything: PASSED") is None


def test_what_deserves_another_try() -> None:
    def failed(status: Status, log: str) -> Cell:
        return Cell(solution="s", workload="w", status=status, reason="r", log_tail=log)

    assert is_collateral(failed(Status.RUNTIME_ERROR, "Baseline handle not found: 5"))
    assert is_collateral(failed(Status.TIMEOUT, "Worker failed to start within 30 seconds"))
    assert is_collateral(failed(Status.MISSING, ""))
    assert not is_collateral(failed(Status.TIMEOUT, "Evaluation timeout after 600 seconds"))
    assert not is_collateral(failed(Status.RUNTIME_ERROR, "Connection error during evaluation"))
    assert not is_collateral(failed(Status.INCORRECT_NUMERICAL, "Baseline handle not found"))


def test_grid_is_whole() -> None:
    known = Cell(solution="b", workload="w1", status=Status.PASSED)
    stray = Cell(solution="z", workload="w1", status=Status.PASSED)
    cells = in_grid_order([known, stray], ["a", "b"], ["w1", "w2"])
    assert [(c.workload, c.solution, c.status.value) for c in cells] == [
        ("w1", "a", "MISSING"),
        ("w1", "b", "PASSED"),
        ("w2", "a", "MISSING"),
        ("w2", "b", "MISSING"),
    ]
