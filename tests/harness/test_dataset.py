"""Dataset roots: FlashInfer-Bench reads them, a user's one is never written to, a mismatch is shown."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flashinfer_bench.bench.utils import gen_inputs, load_safetensors
from flashinfer_bench.data import TraceSet

from harness import dataset as dataset_module
from harness.dataset import DESCRIBED_NAME, INFO_NAME, Dataset, real, stage, synthetic, write_out
from harness.definition import SMALL, load_definition
from harness.errors import HarnessError
from harness.paths import PROJECT
from tests.harness.folders import discover, write_solution

DEFINITION = load_definition(PROJECT / "definitions" / SMALL)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return synthetic(DEFINITION, "published", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def users(dataset: Dataset, tmp_path: Path) -> Path:
    """A dataset as a user would have it: not marked as made here."""
    root = write_out(dataset, [], tmp_path / "users")
    (root / INFO_NAME).unlink()
    return root


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_synthetic_counts_come_from_routing(dataset: Dataset) -> None:
    by_id = {w.id: w for w in dataset.workloads}
    assert by_id["odd-offset"].local_pairs == 63 and by_id["odd-offset"].active_experts == 28
    assert by_id["no-local-token"].local_pairs == 0
    assert dataset.info.kind == "synthetic" and dataset.info.seed is not None
    assert [w.seq_len for w in dataset.workloads] == sorted(w.seq_len for w in dataset.workloads)


def test_generated_once_and_the_same(dataset: Dataset, tmp_path: Path) -> None:
    again = synthetic(DEFINITION, "published", dataset.root.parent)
    elsewhere = synthetic(DEFINITION, "published", tmp_path)
    assert again.root == dataset.root
    assert again.info.hash == dataset.info.hash == elsewhere.info.hash
    assert synthetic(DEFINITION, "published", tmp_path, seed=1).info.hash != dataset.info.hash


def test_two_processes_generate_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process finishes between the look at the cache and the rename: its root is used, and ours leaves nothing."""
    replace, others = dataset_module.os.replace, []

    def late(source: Path, target: Path) -> None:
        if Path(target).parent == tmp_path and not others:
            shutil.copytree(source, target)
            others.append((Path(target) / "synthetic.json").stat().st_ino)
        replace(source, target)

    monkeypatch.setattr(dataset_module.os, "replace", late)
    found = synthetic(DEFINITION, "published", tmp_path)
    assert others == [(found.root / "synthetic.json").stat().st_ino]
    assert [path.name for path in tmp_path.iterdir()] == [found.root.name]


def test_staged_root_has_only_what_was_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    write_solution(tmp_path / "solutions", "a")
    write_solution(tmp_path / "solutions", "b")
    variants = discover(tmp_path / "solutions")
    root = stage(dataset, variants[:1], ["few-pairs"], tmp_path / "root")
    (root / "traces" / "old.jsonl").write_text("")
    root = stage(dataset, variants[:1], ["few-pairs"], tmp_path / "root")
    assert not list(
        (root / "traces").iterdir()
    )  # flashinfer-bench appends: a root is never used twice
    loaded = TraceSet.from_path(str(root))
    assert [s.name for s in loaded.solutions[SMALL]] == ["a_full_name"]
    assert loaded.solutions[SMALL][0].sources[0].content == variants[0].sources["main.py"]
    (trace,) = loaded.workloads[SMALL]
    definition = loaded.definitions[SMALL]
    inputs = gen_inputs(
        definition, trace.workload, "cpu", load_safetensors(definition, trace.workload, root)
    )
    assert inputs[0].shape == (14, 256) and inputs[8] == 0 and inputs[9] == 2.5


def test_written_root_stands_alone(dataset: Dataset, tmp_path: Path) -> None:
    root = write_out(dataset, [], tmp_path / "out")
    assert not any(p.is_symlink() for p in root.rglob("*"))
    assert len(TraceSet.from_path(str(root)).workloads[SMALL]) == 6
    copy = real(DEFINITION, root)
    assert copy.info.kind == "synthetic", (
        "a copy of the synthetic dataset must not pass for a real one"
    )
    assert copy.info.hash == dataset.info.hash
    with pytest.raises(HarnessError, match="exists"):
        write_out(dataset, [], tmp_path / "out")


def test_a_users_dataset_is_only_read(users: Path, tmp_path: Path) -> None:
    before = snapshot(users)
    loaded = real(DEFINITION, users)
    assert loaded.info.kind == "real" and loaded.info.hash
    root = stage(loaded, [], list(loaded.traces), tmp_path / "root")
    (root / "traces" / "new.jsonl").write_text("x")
    shutil.rmtree(root)
    assert snapshot(users) == before


@pytest.mark.parametrize("folder", ["tensors/deep", ".", "workloads/here", "blob/../tensors"])
def test_tensors_may_lie_anywhere_in_the_dataset(users: Path, tmp_path: Path, folder: str) -> None:
    """What flashinfer-bench reads in the staged root is what the dataset holds, and nothing of that is a folder of it."""
    path = next((users / "workloads").rglob("*.jsonl"))
    traces = [json.loads(line) for line in path.read_text().splitlines()]
    for trace in traces:
        for spec in trace["workload"]["inputs"].values():
            if spec["type"] == "safetensors":
                moved = f"{folder}/{Path(spec['path']).name}"
                (users / moved).parent.mkdir(parents=True, exist_ok=True)
                if not (users / moved).exists():
                    shutil.copyfile(users / spec["path"], users / moved)
                spec["path"] = moved
    path.write_text("\n".join(map(json.dumps, traces)) + "\n")
    before = snapshot(users)
    loaded = real(DEFINITION, users)
    ids = [w.id for w in loaded.workloads][:2]
    root = stage(loaded, [], ids, tmp_path / "root")
    staged = TraceSet.from_path(str(root))
    for trace in staged.workloads[SMALL]:
        tensors = load_safetensors(staged.definitions[SMALL], trace.workload, root)
        assert {"routing_logits", "routing_bias"} <= set(tensors)
    assert len(staged.workloads[SMALL]) == 2
    assert len([p for p in root.rglob("*.safetensors") if p.is_symlink()]) == 2
    assert not [p for p in root.rglob("*") if p.is_symlink() and p.is_dir()]
    shutil.rmtree(root)
    assert snapshot(users) == before


def test_mismatching_definition_shows_the_difference(users: Path) -> None:
    path = next((users / "definitions").rglob("*.json"))
    content = json.loads(path.read_text())
    content["axes"]["hidden_size"]["value"] = 640
    content["inputs"]["routing_bias"]["dtype"] = "float32"
    path.write_text(json.dumps(content))
    with pytest.raises(HarnessError) as error:
        real(DEFINITION, users)
    message = str(error.value)
    assert "axes.hidden_size: theirs 640, ours 512" in message
    assert "inputs.routing_bias" in message and str(path) in message


def test_other_descriptions_are_no_mismatch(users: Path) -> None:
    path = next((users / "definitions").rglob("*.json"))
    content = json.loads(path.read_text())
    content["description"] = "other words"
    content["reference"] = "def run():\n    pass\n"
    path.write_text(json.dumps(content))
    real(DEFINITION, users)


@pytest.mark.parametrize(
    "damage", ["definition", "workloads", "line", "tensors", "truncated", "folder"]
)
def test_damaged_dataset(users: Path, damage: str) -> None:
    workloads = next((users / "workloads").rglob("*.jsonl"))
    blob = next((users / "blob").rglob("*.safetensors"))
    match damage:
        case "definition":
            next((users / "definitions").rglob("*.json")).unlink()
        case "workloads":
            workloads.unlink()
        case "line":
            workloads.write_text(workloads.read_text() + '{"half": ')
        case "tensors":
            blob.unlink()
        case "truncated":
            blob.write_bytes(blob.read_bytes()[:100])
        case "folder":
            shutil.rmtree(users)
    with pytest.raises(HarnessError) as error:
        real(DEFINITION, users)
    assert str(users) in str(error.value) and "\n" not in str(error.value)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "truncated blob": ("blob", half),
    "changed blob": ("blob", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "truncated list": ("list", half),
    "list of another form": ("list", lambda _: b'{"x": "y"}\n'),
    "inputs no mapping": ("list", lambda data: re.sub(rb'"inputs": {.*?}}', b'"inputs": []', data)),
    "nested list": ("list", lambda _: b"[" * 100_000),
    "truncated info": ("info", half),
    "another kind": ("info", lambda data: data.replace(b'"synthetic"', b'"real"')),
    "truncated counts": ("counts", half),
    "changed count": ("counts", lambda data: data.replace(b'_pairs": ', b'_pairs": 1', 1)),
}
"""What happens to which file of a cache."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(dataset: Dataset, tmp_path: Path, damage: str) -> None:
    """Half a file, or a flipped bit, never becomes part of a result."""
    cache = tmp_path / "cache"
    shutil.copytree(dataset.root.parent, cache)
    root = cache / dataset.root.name
    which, change = DAMAGES[damage]
    path = {
        "blob": sorted(root.rglob("*.safetensors"))[0],
        "list": next(root.rglob("*.jsonl")),
        "info": root / INFO_NAME,
        "counts": root / DESCRIBED_NAME,
    }[which]
    data = path.read_bytes()
    broken = change(data)
    assert broken != data
    path.write_bytes(broken)
    again = synthetic(DEFINITION, "published", cache)
    assert again.info == dataset.info and path.read_bytes() == data
    assert again.workloads == dataset.workloads


def test_what_was_generated_before_is_found_without_torch(dataset: Dataset) -> None:
    """Importing it takes seconds, before every run; the traces and counts are those of the first time all the same."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.dataset import synthetic\n"
        "from harness.definition import load_definition\n"
        f"found = synthetic(load_definition(Path({str(DEFINITION.folder)!r})), 'published',"
        f" Path({str(dataset.root.parent)!r}))\n"
        "assert 'torch' not in sys.modules and 'flashinfer_bench' not in sys.modules\n"
        "print(found.info.hash, len(found.traces), [w.local_pairs for w in found.workloads])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    pairs = [w.local_pairs for w in dataset.workloads]
    assert done.stdout == f"{dataset.info.hash} {len(dataset.traces)} {pairs}\n", done.stderr


def seq_len_as_text(workload: dict) -> None:
    workload["axes"]["seq_len"] = "five"


def inputs_no_mapping(workload: dict) -> None:
    workload["inputs"] = ["routing_logits"]


def input_no_mapping(workload: dict) -> None:
    workload["inputs"]["routing_bias"] = 3


def unknown_type(workload: dict) -> None:
    workload["inputs"]["routing_bias"] = {"type": "npy"}


def input_missing(workload: dict) -> None:
    del workload["inputs"]["hidden_states"]


def no_seq_len(workload: dict) -> None:
    workload["axes"] = {}


def other_seq_len(workload: dict) -> None:
    workload["axes"]["seq_len"] = 4321


def outside(workload: dict) -> None:
    workload["inputs"]["routing_logits"]["path"] = "../elsewhere.safetensors"


def outside_and_back(workload: dict) -> None:
    path = workload["inputs"]["routing_logits"]["path"]
    workload["inputs"]["routing_logits"]["path"] = f"../users/{path}"


def absolute(workload: dict) -> None:
    workload["inputs"]["routing_logits"]["path"] = "/elsewhere/a.safetensors"


def random_offset(workload: dict) -> None:
    workload["inputs"]["local_expert_offset"] = {"type": "random"}


def no_id(workload: dict) -> None:
    workload["uuid"] = None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (seq_len_as_text, ["line 2", "workload.axes.seq_len", "integer"]),
        (inputs_no_mapping, ["line 2", "workload.inputs", "dictionary"]),
        (input_no_mapping, ["line 2", "workload.inputs.routing_bias"]),
        (unknown_type, ["line 2", "workload.inputs.routing_bias"]),
        (input_missing, ["line 2", "workload.inputs", "lacks hidden_states"]),
        (no_seq_len, ["line 2", "workload.axes", "seq_len"]),
        (other_seq_len, ["routing_logits has shape", "4321"]),
        (outside, ["line 2", "../elsewhere.safetensors lies outside"]),
        (outside_and_back, ["line 2", "workload.inputs", "../users/blob", "lies outside"]),
        (absolute, ["line 2", "workload.inputs", "/elsewhere/a.safetensors is absolute"]),
        (random_offset, ["cannot be read", "value"]),
        (no_id, ["line 2", "workload.uuid"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_workload(users: Path, damage: Callable[[dict], None], words: list[str]) -> None:
    """The file, the line and the key are named, in one line; nothing is dropped without a word."""
    path = next((users / "workloads").rglob("*.jsonl"))
    traces = [json.loads(line) for line in path.read_text().splitlines()]
    damage(traces[1]["workload"])
    path.write_text("\n".join(map(json.dumps, traces)) + "\n")
    with pytest.raises(HarnessError) as error:
        real(DEFINITION, users)
    message = str(error.value)
    assert str(users) in message and "\n" not in message
    for word in words:
        assert word in message


def test_a_workload_that_is_there_twice(users: Path) -> None:
    path = next((users / "workloads").rglob("*.jsonl"))
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(HarnessError, match=r"line 7: workload .* is there twice"):
        real(DEFINITION, users)


def test_a_reference_that_does_not_compile(users: Path) -> None:
    path = next((users / "definitions").rglob("*.json"))
    content = json.loads(path.read_text())
    content["reference"] = "def walk(:"
    path.write_text(json.dumps(content))
    with pytest.raises(HarnessError, match=f"{path}: key") as error:
        real(DEFINITION, users)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", '{"kind": "made up"}', "{", '"x"', "\xff"])
def test_damaged_mark_of_a_synthetic_dataset(users: Path, content: str) -> None:
    (users / INFO_NAME).write_bytes(content.encode("latin-1"))
    with pytest.raises(HarnessError, match=INFO_NAME) as error:
        real(DEFINITION, users)
    assert "\n" not in str(error.value)
