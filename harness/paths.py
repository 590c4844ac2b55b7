"""Where the project keeps things."""

from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Paths:
    """Folders of one project; tests and users may point single ones elsewhere."""

    definitions: Path = PROJECT / "definitions"
    solutions: Path = PROJECT / "solutions"
    configs: Path = PROJECT / "configs"
    results: Path = PROJECT / "results"
    build: Path = PROJECT / "build"
    """Never committed: generated datasets, compiled kernels."""

    @property
    def datasets(self) -> Path:
        """Generated synthetic datasets."""
        return self.build / "datasets"

    @property
    def kernel_cache(self) -> Path:
        """flashinfer-bench's build cache."""
        return self.build / "kernels"


def shown(path: Path) -> str:
    """`path` relative to the project where it lies inside it, so that records name no machine's folders."""
    try:
        return str(path.resolve().relative_to(PROJECT))
    except ValueError:
        return str(path)
