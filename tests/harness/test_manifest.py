"""Solution folders: bad ones are refused in one line that names the file, the key and the fix."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flashinfer_bench.data import Solution

from harness.errors import ExitCode, HarnessError
from harness.manifest import load_variant, select, survey
from harness.paths import PROJECT
from tests.harness.folders import REFERENCE, discover, write_solution


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"summary": None}, ["'summary'", "missing", "add it"]),
        ({"lanugage": "triton"}, ["'lanugage'", "not known", "did you mean 'language'"]),
        ({"sources": []}, ["'sources'"]),
        ({"sources": ["main.py", "gone.py"]}, ["gone.py does not exist"]),
        ({"sources": ["main.py", "../other.py"]}, ["'sources'", "'../other.py'", "copy it in"]),
        ({"sources": ["main.py", "/etc/hosts"]}, ["'sources'", "'/etc/hosts'", "copy it in"]),
        ({"sources": ["."]}, ["'sources'", "'.' is no file inside"]),
        ({"sources": ["./main.py"]}, ["'sources'", "'./main.py'", "write 'main.py'"]),
        ({"sources": ["main.py", "more//a.py"]}, ["'more//a.py'", "write 'more/a.py'"]),
        ({"sources": ["main.py", "more/../main.py"]}, ["'more/../main.py'", "write 'main.py'"]),
        ({"sources": ["main.py", "../mine/main.py"]}, ["'../mine/main.py'", "write 'main.py'"]),
        ({"sources": ["main.py", "more\\a.py"]}, ["'more\\a.py'", "write 'more/a.py'"]),
        ({"sources": ["main.py/"]}, ["'main.py/'", "write 'main.py'"]),
        ({"sources": ["main.py", "empty.py"]}, ["empty.py is empty"]),
        ({"sources": ["main.py", "main.py"]}, ["listed twice"]),
        ({"entry_point": "main.py::walk"}, ["'entry_point'", "has no 'walk'"]),
        ({"entry_point": "other.py::run"}, ["'entry_point'", "other.py is not among"]),
        ({"entry_point": "main.py"}, ["'entry_point'", "must look like 'main.py::run'"]),
        ({"language": "fortran"}, ["'language'"]),
        ({"name": ".."}, ["'name'"]),
        ({"name": "--help"}, ["'name'"]),
        ({"author": "../../outside"}, ["'author'"]),
        ({"destination_passing_style": "yes"}, ["'destination_passing_style'"]),
        ({"requires": {"gpus": 2}}, ["'requires.gpus'", "not known", "did you mean 'gpu'?"]),
        (
            {"requires": {"cuda": 13}},
            ["'requires.cuda'", "known keys: compute_capabilities, packages, gpu"],
        ),
    ],
)
def test_bad_manifest(tmp_path: Path, changes: dict, words: list[str]) -> None:
    folder = write_solution(tmp_path, "mine", **changes)
    (tmp_path / "other.py").write_text("x = 1\n")
    (folder / "empty.py").write_text("\n")
    (folder / "more").mkdir()  # what a wrong spelling means is there: the spelling alone is refused
    for name in ("a.py", "\\a.py"):
        (folder / "more" / name).write_text("x = 1\n")
    with pytest.raises(HarnessError) as error:
        load_variant(folder)
    message = str(error.value)
    assert error.value.code is ExitCode.USAGE
    assert "\n" not in message and str(folder / "manifest.yaml") in message
    for word in words:
        assert word in message


def test_an_absolute_source_inside_the_folder(tmp_path: Path) -> None:
    """It would be right on this machine alone; the message gives the spelling that is right on any."""
    folder = write_solution(tmp_path, "mine", sources=[str(tmp_path / "mine" / "main.py")])
    with pytest.raises(HarnessError, match=r"'sources': '/.*main\.py' .* write 'main\.py'"):
        load_variant(folder)


def test_sources_in_folders(tmp_path: Path) -> None:
    names = ["main.py", "kernels/gemm.py", "..odd.py"]
    folder = write_solution(tmp_path, "mine", sources=names)
    (folder / "kernels").mkdir()
    for name in names[1:]:
        (folder / name).write_text("x = 1\n")
    assert list(load_variant(folder).sources) == names


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_solution(tmp_path, "mine", sources=["main.py", "link.py"])
    (tmp_path / "secret.py").write_text("x = 1\n")
    (folder / "link.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(HarnessError, match="lies outside"):
        load_variant(folder)


def test_not_yaml(tmp_path: Path) -> None:
    folder = write_solution(tmp_path, "mine")
    (folder / "manifest.yaml").write_text("a: [1\n")
    with pytest.raises(HarnessError, match="not valid YAML"):
        load_variant(folder)
    (folder / "manifest.yaml").write_text("just text\n")
    with pytest.raises(HarnessError, match="must be a mapping"):
        load_variant(folder)


@pytest.mark.parametrize(
    ("language", "file", "code"),
    [
        ("python", "main.py", "def outer():\n    def run(): ...\n"),
        ("cuda", "main.cu", "// run\nvoid rerun();\n"),
    ],
)
def test_the_entry_point_is_looked_for_in_its_language(
    tmp_path: Path, language: str, file: str, code: str
) -> None:
    changes = {"language": language, "entry_point": f"{file}::run", "sources": [file]}
    folder = write_solution(tmp_path, "mine", **changes)
    (folder / file).write_text(code)
    with pytest.raises(HarnessError, match=rf"key 'entry_point': .*{file} has no 'run'"):
        load_variant(folder)
    (folder / file).write_text(f"{code}\nrun = 1;\n")
    load_variant(folder)


def test_duplicate_names(tmp_path: Path) -> None:
    """The older folder need not come first, so both are named and which to change is said."""
    write_solution(tmp_path, "a", name="same")
    write_solution(tmp_path, "b", name="same")
    with pytest.raises(
        HarnessError,
        match=r"b/manifest.yaml: key 'name': 'same' is taken by .*a/manifest.yaml; "
        "of 'b' and 'a', rename the one that is newer or a copy",
    ):
        discover(tmp_path)


def test_duplicate_label(tmp_path: Path) -> None:
    write_solution(tmp_path, "a")
    write_solution(tmp_path, "b", label="a")
    with pytest.raises(HarnessError, match="key 'label': 'a' is taken"):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("label", "good"),
    [
        *[(label, True) for label in ("größer", "[red]a", "two words", "x", "$\\frac$", "_a")],
        *[
            (label, False)
            for label in ("", " ", " a", "a ", "a\x1b[31m", "a\tb", "a\nb", "a\u2028b")
        ],
        ("right\u202eleft", False),
    ],
)
def test_a_label_is_printable(tmp_path: Path, label: str, good: bool) -> None:
    """It stands in terminals, tables and charts, where an escape sequence or a line break would do harm."""
    folder = write_solution(tmp_path, "a", label=label)
    if good:
        assert load_variant(folder).label == label
    else:
        with pytest.raises(HarnessError, match="key 'label': must look like 'triton_v2'"):
            load_variant(folder)


@pytest.mark.parametrize(("key", "names"), [("label", ["a", "z"]), ("name", ["z", "a"])])
def test_the_name_of_another_folder(tmp_path: Path, key: str, names: list[str]) -> None:
    """Whichever folder comes first: the one that borrowed the other's name is told."""
    borrower, owner = names
    write_solution(tmp_path, borrower, **{key: owner})
    write_solution(tmp_path, owner, label="other")
    expected = rf"{borrower}/manifest.yaml: key '{key}': '{owner}' is taken by .*{owner}/man"
    with pytest.raises(HarnessError, match=expected):
        discover(tmp_path)


def test_all_is_no_name(tmp_path: Path) -> None:
    write_solution(tmp_path, "all")
    with pytest.raises(HarnessError, match="'all' means every solution"):
        discover(tmp_path)


def test_select_by_any_name(tmp_path: Path) -> None:
    for folder in ("fast", "faster"):
        write_solution(tmp_path, folder, label=f"{folder}_label")
    found = survey(tmp_path)
    assert [v.folder.name for v in select(found, ["all"])] == ["fast", "faster"]
    for word in ("faster", "faster_label", "faster_full_name"):
        assert [v.folder.name for v in select(found, [word])] == ["faster"]
    assert [v.folder.name for v in select(found, ["faster", "fast", "faster"])] == [
        "faster",
        "fast",
    ]
    with pytest.raises(
        HarnessError, match=r"^FROM: no solution is called 'fastr'; nearest: .*fast"
    ):
        select(found, ["fastr"], "FROM")


def test_a_broken_folder_is_in_nobody_elses_way(tmp_path: Path) -> None:
    """Others can be used; who asks for it, or for all, is told what is wrong with it."""
    write_solution(tmp_path, "good")
    write_solution(tmp_path, "broken", colour="red")
    for folder in ("twin", "twin_copy"):
        write_solution(tmp_path, folder, name="same")
    found = survey(tmp_path)
    assert [v.folder.name for v in found.variants] == ["good"]
    assert set(found.broken) == {"broken", "twin", "twin_copy"}
    assert [v.folder.name for v in select(found, ["good"])] == ["good"]
    for wanted, words in (
        (["good", "broken"], "broken/manifest.yaml: key 'colour'"),
        (["all"], "broken/manifest.yaml: key 'colour'"),
        (["twin"], "'same' is taken by .*twin/manifest.yaml"),
        (["twin_copy"], "'same' is taken by .*twin/manifest.yaml"),
        (["its_label"], "known: good, good_full_name; cannot be used: broken, twin, twin_copy"),
    ):
        with pytest.raises(HarnessError, match=words):
            select(found, wanted)
    with pytest.raises(HarnessError, match="key 'colour'"):
        discover(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match=r"called .empty.; .*empty has no manifest"):
        select(found, ["empty"])
    with pytest.raises(HarnessError, match="no solution is called 'good/'; nearest: good"):
        select(found, ["good/"])


def loop(folder: Path) -> None:
    (folder / "main.py").unlink()
    (folder / "main.py").symlink_to("main.py")


def written(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "manifest.yaml").write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (written("summary: 2024-13-45\n"), "month must be in 1..12.*; put it in quotes"),
        (written("summary: !!int foo\n"), "ValueError"),
        (written("summary: !!timestamp foo\n"), "AttributeError"),
        (written("requires: " + "[" * 3000), "RecursionError"),
        (written("name: a\nname: b\n"), "line 2, column 1: key 'name' stands twice; remove one$"),
        (written("name: a: b\n"), "line 1, column 8: mapping values are not allowed here$"),
        (written("[1, 2]"), "must be a mapping"),
        (loop, "main.py cannot be read as text"),
    ],
)
def test_whatever_is_wrong_with_a_folder_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    """And others can be used: what YAML or the file system raises must not end the survey."""
    write_solution(tmp_path, "good")
    damage(write_solution(tmp_path, "damaged"))
    found = survey(tmp_path)
    assert [v.folder.name for v in found.variants] == ["good"]
    said = str(found.broken["damaged"])
    assert re.search(words, said) and "\n" not in said and len(said) < 400, said


def test_source_hash_follows_what_is_built(tmp_path: Path) -> None:
    base = load_variant(write_solution(tmp_path, "a", name="n"))
    same = load_variant(write_solution(tmp_path, "b", name="n", notes="other words", summary="too"))
    code = load_variant(write_solution(tmp_path, "c", REFERENCE + "\n# more\n", name="n"))
    style = load_variant(write_solution(tmp_path, "d", name="n", destination_passing_style=True))
    assert base.source_hash() == same.source_hash()
    assert len({base.source_hash(), code.source_hash(), style.source_hash()}) == 3


def test_binding(tmp_path: Path) -> None:
    """It reaches flashinfer-bench and the hash; left out, both are as they were before there was such a key."""
    cuda = {"language": "cuda", "entry_point": "main.cu::run", "sources": ["main.cu"], "name": "n"}
    variants = []
    for folder, binding in (("plain", None), ("bound", "torch")):
        path = write_solution(tmp_path, folder, binding=binding, **cuda)
        (path / "main.cu").write_text("void run() {}\n")
        variants.append(load_variant(path))
    plain, bound = variants
    before = "770f9ddddd6e8a3744ac426fe84688055f5f8d9e063818748e46b620718a3a01"
    assert plain.source_hash() == before and bound.source_hash() != before
    specs = [Solution.model_validate(v.solution_json("d")).spec for v in variants]
    assert [spec.binding and spec.binding.value for spec in specs] == [None, "torch"]
    with pytest.raises(HarnessError, match=r"key 'binding': python code needs none"):
        load_variant(write_solution(tmp_path, "python", binding="torch"))


def test_the_packs_own_folders_are_sound() -> None:
    variants = discover(PROJECT / "solutions")
    documented = {
        "sglang_v1": "sglang_fp8_blockwise_moe_v1",
        "sglang_v2": "sglang_fp8_blockwise_moe_v2",
        "triton_v1": "triton_fused_moe_v1",
        "triton_v2": "triton_fused_moe_v2",
    }
    assert documented.items() <= {v.folder.name: v.name for v in variants}.items()
    for variant in variants:
        python = {p.name for p in variant.folder.glob("*.py")} - {"tune.py"}
        assert python <= set(variant.sources), f"{variant.folder}: a file is not among its sources"


def test_all_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no solution is called 'all'; known: none"):
        select(survey(tmp_path), ["all"])


def test_who_is_compiled_how_often(tmp_path: Path) -> None:
    """By flashinfer-bench's builders: tvm-ffi's keeps what it has compiled, torch's does not."""
    found = {}
    for folder, language, binding in (
        ("kept", "cuda", None),
        ("anew", "cuda", "torch"),
        ("never", "triton", None),
    ):
        suffix = "cu" if language == "cuda" else "py"
        path = write_solution(
            *(tmp_path, folder),
            language=language,
            binding=binding,
            sources=[f"main.{suffix}"],
            entry_point=f"main.{suffix}::run",
        )
        (path / "main.cu").write_text("void run() {}\n")
        variant = load_variant(path)
        found[folder] = (variant.is_compiled_once, variant.is_compiled_anew)
    assert found == {"kept": (True, False), "anew": (False, True), "never": (False, False)}
