"""A user's definition and workload traces, checked as they are read: what FlashInfer-Bench would refuse or trip over later is
one line here that names the file, the line and the key."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.definition import Definition
from harness.errors import HarnessError
from harness.workloads import NUM_EXPERTS


def read_traces(file: Path, definition: Definition) -> Iterator[tuple[str, dict[str, Any]]]:
    """The workload traces of one file of a dataset, each with its place in words.

    Raises:
        HarnessError: the file cannot be read, or a line of it is no workload of `definition`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{file}: cannot be read ({error}); mend the dataset") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{file}: line {number}"
            yield where, _read_trace(line, definition, where)


def check_format(kind: str, data: Any, where: str) -> None:
    """What FlashInfer-Bench itself would refuse, and drop without a word, is refused here with the key.

    Args:
        kind: name of the class in flashinfer_bench.data.
        where: the file, and the line of it, for the message.
    """
    import flashinfer_bench.data

    try:
        getattr(flashinfer_bench.data, kind).model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole)"
        raise HarnessError(f"{where}: key '{key}': {first['msg']}; mend the dataset") from None


def check_shapes(logits: tuple[int, ...], bias: tuple[int, ...], seq_len: int) -> None:
    """Routing tensors must be [T, 256] and [256].

    Raises:
        ValueError: they are not.
    """
    if tuple(logits) != (seq_len, NUM_EXPERTS) or tuple(bias) != (NUM_EXPERTS,):
        raise ValueError(
            f"routing_logits has shape {list(logits)} and routing_bias {list(bias)}, where seq_len is {seq_len}"
        )


def blobs_of(trace: dict[str, Any]) -> list[Path]:
    """Tensor files that a workload names, relative to the dataset's root."""
    specs = trace["workload"]["inputs"].values()
    return [Path(s["path"]) for s in specs if s.get("type") == "safetensors"]


def _read_trace(line: str, definition: Definition, where: str) -> dict[str, Any]:
    try:
        trace = json.loads(line)
    except ValueError as error:
        raise HarnessError(f"{where}: is not JSON ({error}); mend the dataset") from None
    check_format("Trace", trace, where)
    workload = trace["workload"]
    if trace["definition"] != definition.name:
        problem = f"key 'definition': is {trace['definition']}, not {definition.name}"
    elif list(workload["axes"]) != ["seq_len"]:
        problem = f"key 'workload.axes': must be seq_len alone, not {', '.join(workload['axes'])}"
    elif absent := [name for name in definition.file.inputs if name not in workload["inputs"]]:
        problem = f"key 'workload.inputs': lacks {', '.join(absent)}"
    elif wrong := [p for p in blobs_of(trace) if p.is_absolute() or _leads_out(p)]:
        how = "is absolute" if wrong[0].is_absolute() else "lies outside the dataset"
        problem = f"key 'workload.inputs': {wrong[0]} {how}, not below its root"
    else:
        return trace
    raise HarnessError(f"{where}: {problem}; mend the dataset")


def _leads_out(path: Path) -> bool:
    """By name, not by where links lead: a dataset's tensors may be links into a cache."""
    return Path(os.path.normpath(path)).parts[:1] == ("..",)
