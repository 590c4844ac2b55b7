"""The commands of docs/ that need a GPU, run as a reader would: `pytest -m gpu_docs tests/gpu`.

Where a command runs all workloads, here it runs three: on an H100 the page with all of them did not end within nine minutes.
"""

import shutil
from pathlib import Path

import pytest

from harness.paths import PROJECT
from harness.record import load_record
from tests.pages import fresh_copy, run_blocks

pytestmark = pytest.mark.gpu_docs
DOCS = PROJECT / "docs"
WORKLOADS = "T=1 T=57 T=901"


def test_add_a_solution(tmp_path: Path):
    """The whole page, in order: what it measures passes, and the comparison at its end can be made."""
    copy = fresh_copy(tmp_path)
    page = DOCS / "add-a-solution.md"
    done = run_blocks(copy, page, ("", "setup", "gpu"), timeout=3000, WORKLOADS=WORKLOADS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for name in ("first-try", "second-try", "measured", "changed"):
        record = load_record(copy / "results" / name)
        assert record.backend == "gpu" and record.all_passed()
    assert "changed against measured" in done.stdout


def test_gpu_hosts(tmp_path: Path):
    """All but the GPU tests, which run by themselves."""
    copy = fresh_copy(tmp_path)
    page = tmp_path / "page.md"
    page.write_text((DOCS / "gpu-hosts.md").read_text().replace("make test-gpu", "make list"))
    done = run_blocks(copy, page, ("", "gpu"), timeout=1200, WORKLOADS=WORKLOADS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (record,) = (path.parent for path in (copy / "results").glob("*/run.json") if _new(path))
    assert load_record(record).backend == "gpu"


@pytest.mark.skipif(
    not (PROJECT / "build" / "bundle" / "wheels").is_dir(), reason="no bundle: make bundle"
)
def test_offline_host(tmp_path: Path):
    copy = fresh_copy(tmp_path)
    shutil.copytree(PROJECT / "build" / "bundle", copy / "build" / "bundle")
    page = DOCS / "gpu-hosts.md"
    done = run_blocks(copy, page, ("offline-gpu",), timeout=1200, WORKLOADS=WORKLOADS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Report: results/" in done.stdout


def _new(path: Path) -> bool:
    return not (PROJECT / path.relative_to(path.parents[2])).exists()
