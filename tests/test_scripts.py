"""The scripts for hosts without network, as far as they go without one."""

import subprocess

from harness.paths import PROJECT


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *args], cwd=PROJECT, capture_output=True, text=True)


def test_syntax() -> None:
    for script in (PROJECT / "scripts").glob("*.sh"):
        assert run("-n", str(script)).returncode == 0, script


def test_offline_bench_refuses_what_is_no_bundle(tmp_path) -> None:
    for args in ([], [str(tmp_path)]):
        done = run("scripts/bench_offline.sh", *args)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_bundle_names_the_version_that_the_project_pins() -> None:
    script = (PROJECT / "scripts" / "offline_bundle.sh").read_text()
    project = (PROJECT / "pyproject.toml").read_text()
    for pin in ("flashinfer-bench==0.1.2", "sglang-kernel==0.4.3", "apache-tvm-ffi==0.1.15.post2"):
        assert pin in script and pin in project
