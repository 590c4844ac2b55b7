"""FlashInfer-Bench dataset roots: the embedded synthetic one, overlays of a user's real one, and staging for a run."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness import workloads as workload_module
from harness.atomic import write_atomically
from harness.definition import Definition, signature_of
from harness.errors import HarnessError
from harness.manifest import Variant
from harness.record import DatasetInfo, WorkloadInfo
from harness.workload_traces import blobs_of, check_format, check_shapes, read_traces
from harness.workloads import SEED, Workload, load_workloads, make_routing, suite
from harness.yamlfile import validate

INFO_NAME = "synthetic.json"
"""Marks a root that this module generated, so that no copy of it ever passes for a real dataset."""


DESCRIBED_NAME = "described.json"
"""Beside it, what the workloads of a generated root ask for, so that finding it needs no torch."""


class _Described(BaseModel):
    """What is in DESCRIBED_NAME."""

    workloads: list[WorkloadInfo]
    digest: str
    """Of the workloads."""


@dataclass(frozen=True)
class Dataset:
    """A dataset root of one definition, whoever made it."""

    root: Path
    definition: Definition
    definition_file: Path
    traces: dict[str, dict[str, Any]]
    """Workload traces in FlashInfer-Bench's format, by workload id."""
    workloads: list[WorkloadInfo]
    """The same, for the record; sorted by number of tokens."""
    info: DatasetInfo


def synthetic(definition: Definition, suite_name: str, cache: Path, seed: int = SEED) -> Dataset:
    """The embedded synthetic dataset of one suite, generated on first use and kept under `cache`.

    Raises:
        HarnessError: no such suite, or a row of workloads.yaml contradicts itself.
    """
    file = load_workloads(definition.folder)
    rows = suite(file, suite_name)
    # The generator's own source is part of the key: changing it must never revive an older dataset.
    key = _sha256(
        json.dumps(definition.definition_json()),
        json.dumps([row.model_dump() for row in rows] + [file.routed_scaling_factor, seed]),
        Path(workload_module.__file__).read_text(encoding="utf-8"),
        Path(__file__).read_text(encoding="utf-8"),
    )
    root = cache / f"{definition.name}-{suite_name}-{key[:12]}"
    info = DatasetInfo(kind="synthetic", suite=suite_name, hash=None, seed=seed)
    if (dataset := _cached(root, definition, info)) is not None:
        return dataset
    partial = root.with_name(f".{root.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    _generate(partial, definition, rows, file.routed_scaling_factor, info)
    # With its hash, so that whoever finds it in place can tell whether it is whole.
    made = _load(partial, definition)
    _write_json(partial / INFO_NAME, made.info.model_dump())
    described = _Described(workloads=made.workloads, digest=_digest(made.workloads))
    _write_json(partial / DESCRIBED_NAME, described.model_dump())
    _put_in_place(partial, root, definition, info)
    return _load(root, definition)


def _cached(root: Path, definition: Definition, info: DatasetInfo) -> Dataset | None:
    """What was generated before, if it is still what it was then: a file cut short or changed makes it worthless.

    Its hash stands for the checks and counts that were made when it was generated, which take torch.

    Args:
        info: what it must be, without its hash.
    """
    if not (root / INFO_NAME).exists():
        return None
    try:
        file = _definition_path(root, definition)
        lines = _workloads_path(root, definition).read_text(encoding="utf-8").splitlines()
        traces = {trace["workload"]["uuid"]: trace for trace in map(json.loads, lines)}
        described = validate(_read_json(root / DESCRIBED_NAME), _Described, root / DESCRIBED_NAME)
        dataset = Dataset(root, definition, file, traces, described.workloads, _read_info(root))
        then = info.model_copy(update={"hash": _hash(dataset)})
    except (HarnessError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except RecursionError:  # JSON nested without end
        return None
    whole = dataset.info == then and described.digest == _digest(described.workloads)
    return dataset if whole else None


def real(definition: Definition, root: Path) -> Dataset:
    """A user's dataset, read and never written to.

    Raises:
        HarnessError: it lacks the definition or its workloads, cannot be read, or its definition differs in signature.
    """
    if not root.is_dir():
        raise HarnessError(
            f"FIB_DATASET_PATH: {root} is no folder; point it at a FlashInfer-Bench dataset root"
        )
    return _load(root, definition)


def stage(dataset: Dataset, variants: list[Variant], ids: list[str], root: Path) -> Path:
    """Make a fresh root with only these solutions and workloads and no traces; inputs are linked, not copied.

    flashinfer-bench appends to the traces it finds and runs every workload it finds, hence a root of its own for each
    call. It runs solutions in the order of their paths, which is made that of `variants`.
    """
    if root.exists():
        shutil.rmtree(root)
    (root / "traces").mkdir(parents=True)
    _write_definition_and_workloads(dataset, ids, root, link=True)
    _write_solutions(dataset.definition, variants, root, numbered=True)
    # File by file, wherever below its root a dataset keeps them: a linked folder could be written into.
    for path in _blobs(dataset, ids):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((dataset.root / path).resolve())
    return root


def write_out(dataset: Dataset, variants: list[Variant], out: Path) -> Path:
    """Write a complete dataset root that plain `flashinfer-bench run --local OUT` takes.

    Raises:
        HarnessError: `out` is there and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HarnessError(f"OUT: {out} exists; name a folder that does not")
    (out / "traces").mkdir(parents=True)
    _write_definition_and_workloads(dataset, list(dataset.traces), out, link=False)
    _write_solutions(dataset.definition, variants, out)
    if dataset.info.kind == "synthetic":
        _write_json(out / INFO_NAME, dataset.info.model_dump())
    for path in _blobs(dataset, dataset.traces):
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.root / path, target)
    return out


def _generate(
    root: Path, definition: Definition, rows: list[Workload], factor: float, info: DatasetInfo
) -> None:
    import torch  # here and below: it takes seconds to import and most commands do without
    from safetensors.torch import save_file

    lines = []
    for row in rows:
        routing = make_routing(row, info.seed or 0)
        blob = (
            Path("blob/workloads")
            / definition.op_type
            / definition.name
            / f"{row.synthetic_id}.safetensors"
        )
        (root / blob).parent.mkdir(parents=True, exist_ok=True)
        bias = torch.from_numpy(routing.bias).to(torch.bfloat16)
        save_file(
            {"routing_logits": torch.from_numpy(routing.logits), "routing_bias": bias},
            root / blob,
        )
        inputs: dict[str, Any] = {name: {"type": "random"} for name in definition.file.inputs}
        for name in ("routing_logits", "routing_bias"):
            inputs[name] = {"type": "safetensors", "path": str(blob), "tensor_key": name}
        inputs["local_expert_offset"] = {"type": "scalar", "value": row.local_expert_offset}
        inputs["routed_scaling_factor"] = {"type": "scalar", "value": factor}
        workload = {"uuid": row.synthetic_id, "axes": {"seq_len": row.seq_len}, "inputs": inputs}
        trace = {
            "definition": definition.name,
            "workload": workload,
            "solution": None,
            "evaluation": None,
        }
        lines.append(json.dumps(trace))
    _write_json(_definition_path(root, definition), definition.definition_json())
    write_atomically(_workloads_path(root, definition), "\n".join(lines) + "\n")
    _write_json(root / INFO_NAME, info.model_dump())


def _put_in_place(partial: Path, root: Path, definition: Definition, info: DatasetInfo) -> None:
    """Rename `partial` to `root`; of two processes that made the same at the same time, the second uses the first's."""
    try:
        os.replace(partial, root)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _cached(root, definition, info) is not None:
        shutil.rmtree(partial)
        return
    shutil.rmtree(root, ignore_errors=True)  # damaged
    os.replace(partial, root)


def _load(root: Path, definition: Definition) -> Dataset:
    definition_file = _find_definition(root, definition)
    traces = _read_workloads(root, definition)
    info = DatasetInfo(kind="real", suite="published", hash=None, seed=None)
    if (root / INFO_NAME).exists():
        info = _read_info(root)
    dataset = Dataset(root, definition, definition_file, traces, [], info)
    described = sorted(_describe(dataset), key=lambda w: (w.seq_len, w.id))
    info = info.model_copy(update={"hash": _hash(dataset)})
    return Dataset(root, definition, definition_file, traces, described, info)


def _find_definition(root: Path, definition: Definition) -> Path:
    found = sorted((root / "definitions").rglob(f"{definition.name}.json"))
    if not found:
        raise HarnessError(
            f"{root / 'definitions'}: has no {definition.name}.json; point FIB_DATASET_PATH at a dataset that has it"
        )
    theirs = _read_json(found[0])
    try:
        their_signature = signature_of(theirs)
    except (KeyError, TypeError, AttributeError) as error:
        raise HarnessError(
            f"{found[0]}: is not a FlashInfer-Bench definition ({error!r}); mend the file"
        ) from None
    ours = definition.signature()
    # JSON knows no tuples, so both sides are compared as JSON.
    differing = [
        f"{key}: theirs {json.dumps(their_signature.get(key))}, ours {json.dumps(ours.get(key))}"
        for key in {**ours, **their_signature}
        if json.dumps(their_signature.get(key)) != json.dumps(ours.get(key))
    ]
    if differing:
        raise HarnessError(
            f"{found[0]}: differs from {definition.folder / 'definition.yaml'}: {'; '.join(differing)}; "
            "use a dataset of the same operation"
        )
    check_format("Definition", theirs, str(found[0]))
    return found[0]


def _read_workloads(root: Path, definition: Definition) -> dict[str, dict[str, Any]]:
    traces: dict[str, dict[str, Any]] = {}
    for file in sorted((root / "workloads").rglob(f"{definition.name}.jsonl")):
        for where, trace in read_traces(file, definition):
            uuid = trace["workload"]["uuid"]
            if uuid in traces:
                raise HarnessError(f"{where}: workload {uuid} is there twice; remove one")
            traces[uuid] = trace
    if not traces:
        raise HarnessError(
            f"{root / 'workloads'}: has no workload of {definition.name}; the dataset is incomplete"
        )
    return traces


def _describe(dataset: Dataset) -> list[WorkloadInfo]:
    """Each workload with the counts that follow from routing its logits, where the dataset stores them."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    route = dataset.definition.reference_module().route
    num_local = dataset.definition.const_axes["num_local_experts"]
    described = []
    for uuid, trace in dataset.traces.items():
        try:
            inputs = trace["workload"]["inputs"]
            seq_len = trace["workload"]["axes"]["seq_len"]
            offset = int(inputs["local_expert_offset"]["value"])
            stored = [inputs[name] for name in ("routing_logits", "routing_bias")]
            counts = {}
            if all(spec.get("type") == "safetensors" for spec in stored):
                logits, bias = (
                    load_file(dataset.root / s["path"])[s["tensor_key"]] for s in stored
                )
                check_shapes(logits.shape, bias.shape, seq_len)
                ids, _ = route(logits, bias, 1.0)
                local = (ids >= offset) & (ids < offset + num_local)
                counts = {
                    "local_pairs": int(local.sum()),
                    "local_tokens": int(local.any(dim=1).sum()),
                    "active_experts": len(torch.unique(ids[local])),
                }
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise HarnessError(
                f"{dataset.root}: workload {uuid} cannot be read ({error!r}); the dataset is incomplete or damaged"
            ) from None
        described.append(
            WorkloadInfo(id=uuid, seq_len=seq_len, local_expert_offset=offset, **counts)
        )
    return described


def _digest(workloads: list[WorkloadInfo]) -> str:
    return _sha256(*(workload.model_dump_json() for workload in workloads))


def _hash(dataset: Dataset) -> str:
    digest = hashlib.sha256(dataset.definition_file.read_bytes())
    digest.update(json.dumps(dataset.traces, sort_keys=True).encode())
    for path in _blobs(dataset, dataset.traces):
        digest.update((dataset.root / path).read_bytes())
    return digest.hexdigest()


def _blobs(dataset: Dataset, ids: Iterable[str]) -> list[Path]:
    """Tensor files that these workloads name, relative to the root."""
    return sorted({path for uuid in ids for path in blobs_of(dataset.traces[uuid])})


def _write_definition_and_workloads(
    dataset: Dataset, ids: list[str], root: Path, link: bool
) -> None:
    target = _definition_path(root, dataset.definition)
    target.parent.mkdir(parents=True)
    if link:
        target.symlink_to(dataset.definition_file.resolve())
    else:
        shutil.copyfile(dataset.definition_file, target)
    lines = [json.dumps(dataset.traces[uuid]) for uuid in ids]
    write_atomically(_workloads_path(root, dataset.definition), "\n".join(lines) + "\n")


def _write_solutions(
    definition: Definition, variants: list[Variant], root: Path, numbered: bool = False
) -> None:
    for number, variant in enumerate(variants):
        first = f"{number:03}" if numbered else variant.manifest.author
        folder = root / "solutions" / first / definition.op_type / definition.name
        _write_json(folder / f"{variant.name}.json", variant.solution_json(definition.name))


def _definition_path(root: Path, definition: Definition) -> Path:
    return root / "definitions" / definition.op_type / f"{definition.name}.json"


def _workloads_path(root: Path, definition: Definition) -> Path:
    return root / "workloads" / definition.op_type / f"{definition.name}.jsonl"


def _read_info(root: Path) -> DatasetInfo:
    return validate(_read_json(root / INFO_NAME), DatasetInfo, root / INFO_NAME)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: cannot be read as JSON ({error}); mend the file") from None


def _write_json(path: Path, data: Any) -> None:
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def _sha256(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
