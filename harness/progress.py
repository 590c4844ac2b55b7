"""Live progress of a run: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from harness.record import Cell, Status
from harness.report.numbers import matched


class Progress:
    """Counts finished cells and says what happened."""

    def __init__(self, console: Console, total: int, labels: dict[str, str]):
        self._console = console
        self._labels = labels
        self._start = time.monotonic()
        self._total = total
        self._done = 0
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("cells", total=total)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def cell(self, cell: Cell) -> None:
        """One more cell is known."""
        self._done = min(self._done + 1, self._total)
        label = self._labels.get(cell.solution, cell.solution)
        result = cell.status.value if cell.speedup is None else f"{cell.speedup:.2f}x"
        if cell.status is Status.PASSED and cell.speedup is None and cell.matched_ratio is not None:
            result = f"PASSED, matched ratio {matched(cell.matched_ratio)}"
        self.note(f"[{self._done}/{self._total}] {cell.workload[:16]:16} {label:16} {result}")
        if self._bar:
            self._bar.update(self._task, completed=self._done)

    def note(self, text: str) -> None:
        """A line of its own, with the seconds since the start."""
        seconds = time.monotonic() - self._start
        self._console.print(f"{seconds:6.1f}s  {text}", highlight=False, markup=False)
