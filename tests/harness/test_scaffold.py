"""New solutions: a copy under names of its own, which passes as it is."""

import re
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.manifest import Variant, load_variant, survey
from harness.paths import PROJECT, Paths
from harness.scaffold import CPP_SUFFIXES, NAMESPACE, new_solution, replace_key
from tests.harness.folders import discover, harness, write_solution


@pytest.mark.parametrize("folder", [v.folder.name for v in discover(Paths().solutions)])
def test_every_solution_can_be_started_from(tmp_path: Path, folder: str):
    source = load_variant(PROJECT / "solutions" / folder)
    made = new_solution(tmp_path, "mine", source)
    assert (made.folder.name, made.label, made.name) == ("mine", "mine", "mine")
    assert made.sources.keys() == source.sources.keys()
    for path, content in source.sources.items():
        if is_cpp(path):
            assert namespaces(made) == {"mine"}
            content = re.sub(r"(?<=namespace )\w+(?= \{$|$)", "mine", content, flags=re.M)
            for name in namespaces(source):
                content = re.sub(rf"\b{name}(?=::)", "mine", content)
        assert made.sources[path] == content
    ours, theirs = made.manifest, source.manifest
    assert ours.model_dump(exclude={"name", "label", "summary", "notes"}) == theirs.model_dump(
        exclude={"name", "label", "summary", "notes"}
    )
    assert source.label in ours.summary and source.label in ours.notes
    listed = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*.*")}
    assert listed == {"manifest.yaml", *source.sources}, "nothing else is copied"


def test_no_two_solutions_share_a_namespace():
    """Libraries in one process share what they define under one name, so that one would run the other's kernels."""
    spaces = [space for variant in discover(Paths().solutions) for space in namespaces(variant)]
    assert len(spaces) == len(set(spaces)) > 1


def is_cpp(path: str) -> bool:
    return Path(path).suffix in CPP_SUFFIXES


def namespaces(variant: Variant) -> set[str]:
    cpp = [content for path, content in variant.sources.items() if is_cpp(path)]
    return {space for content in cpp for space in re.findall(NAMESPACE, content)}


def test_the_new_solution_passes(tmp_path: Path):
    """From one command to PASS: the reference as a solution, on the CPU backend."""
    root = tmp_path / "solutions"
    write_solution(root, "first", language="python")
    where = ("--solutions-dir", root)
    done = harness("new", "mine", "--from", "first", *where)
    assert done.returncode == 0, done.stderr
    assert 'make bench SOLUTIONS="mine first"' in done.stdout
    done = harness(
        *("bench", "mine", "first", "--backend", "cpu", "--workloads", "one-token", "--run", "r"),
        *(*where, "--results-dir", tmp_path / "results"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS 1/1") == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x", "no solution name"),
        ("Mine", "no solution name"),
        ("first", "exists"),
        ("all", "'all' means every solution"),
        ("other_label", "is a name of"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, words: str):
    write_solution(tmp_path, "first")
    write_solution(tmp_path, "second", label="other_label")
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(HarnessError, match=words):
        new_solution(tmp_path, name, load_variant(tmp_path / "first"))
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_broken_folder_does_not_keep_one_from_starting(tmp_path: Path):
    write_solution(tmp_path, "first")
    write_solution(tmp_path, "broken", colour="red")
    made = new_solution(tmp_path, "mine", load_variant(tmp_path / "first"))
    assert (made.name, made.label) == ("mine", "mine")
    assert [v.label for v in survey(tmp_path).variants] == ["first", "mine"]


def test_all_is_no_single_solution():
    """`new --from all` and `export all` are refused in one line; they were tracebacks."""
    for command in (["new", "mine", "--from", "all"], ["export", "all"]):
        done = harness(*command)
        assert done.returncode == 2 and "'all' means every solution" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    assert not (PROJECT / "solutions" / "mine").exists()


def test_unknown_source_is_named():
    done = harness("new", "mine", "--from", "triton_v22")
    assert done.returncode == 2 and "FROM: no solution is called" in done.stderr
    assert "nearest: triton_v2" in done.stderr


def test_half_a_folder_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_solution(tmp_path, "first")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.scaffold.load_variant", full)
    source = load_variant(tmp_path / "first")
    with pytest.raises(OSError):
        new_solution(tmp_path, "mine", source)
    assert [p.name for p in tmp_path.iterdir()] == ["first"]


def test_replace_key_leaves_everything_else():
    text = "# top\nname: a # why\nnotes: |\n  one\n\n  two: x\n# end\nstate: none\n"
    assert replace_key(text, "notes", "n") == "# top\nname: a # why\nnotes: n\n# end\nstate: none\n"
    assert replace_key(text, "name", "b").startswith("# top\nname: b\nnotes: |\n")
    assert replace_key(text, "label", "l: x").endswith("state: none\nlabel: 'l: x'\n")
