"""Definitions: the operation as people edit it (YAML and a Python reference), rendered to FlashInfer-Bench's JSON."""

import types
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import HarnessError
from harness.record import DefinitionInfo
from harness.yamlfile import load_model

DEFINITION_NAME = "definition.yaml"
FULL = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048"
"""The operation that the pack is about."""
SMALL = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h512_i256"
"""Its sibling for the CPU backend."""


class Axis(BaseModel):
    """A symbolic dimension."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    value: int | None = None
    description: str = ""


class Tensor(BaseModel):
    """An input or output."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shape: list[str] | None
    """Axis names; None for a scalar."""
    dtype: str
    description: str = ""


class DefinitionFile(BaseModel):
    """`definitions/<name>/definition.yaml`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    op_type: str
    description: str
    tags: list[str] = Field(default_factory=list)
    axes: dict[str, Axis]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    reference: str = "reference.py"
    """Path of the reference, relative to the folder."""


class Definition(BaseModel):
    """A definition and the text of its reference."""

    folder: Path
    file: DefinitionFile
    reference: str

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def op_type(self) -> str:
        return self.file.op_type

    @property
    def const_axes(self) -> dict[str, int]:
        """Constant axes, for example {'hidden_size': 7168}."""
        return {name: a.value for name, a in self.file.axes.items() if a.value is not None}

    def info(self) -> DefinitionInfo:
        """What the run record says of it."""
        return DefinitionInfo(name=self.name, axes=self.const_axes)

    def reference_module(self) -> types.ModuleType:
        """The reference as a module, with its `run` and `route`."""
        module = types.ModuleType(f"reference_of_{self.name}")
        exec(compile(self.reference, str(self.folder / self.file.reference), "exec"), vars(module))
        return module

    def definition_json(self) -> dict[str, Any]:
        """The definition in FlashInfer-Bench's format."""
        content = self.file.model_dump(exclude={"reference", "axes"})
        axes = {n: a.model_dump(exclude_none=True) for n, a in self.file.axes.items()}
        return {**content, "axes": axes, "reference": self.reference, "constraints": []}

    def signature(self) -> dict[str, Any]:
        """What a dataset's definition must share with this one: axes, names, order, shapes and dtypes."""
        return signature_of(self.definition_json())


def signature_of(definition: dict[str, Any]) -> dict[str, Any]:
    """The part of a FlashInfer-Bench definition that a solution depends on, as an ordered flat mapping."""
    flat: dict[str, Any] = {"op_type": definition["op_type"]}
    for name, axis in definition["axes"].items():
        flat[f"axes.{name}"] = axis.get("value", axis["type"])
    for kind in ("inputs", "outputs"):
        flat[f"{kind} (order)"] = list(definition[kind])
        for name, tensor in definition[kind].items():
            flat[f"{kind}.{name}"] = (tensor["dtype"], tensor["shape"])
    return flat


def load_definition(folder: Path) -> Definition:
    """Read one definition folder.

    Raises:
        HarnessError: a file is absent or a key is missing, unknown or wrong.
    """
    path = folder / DEFINITION_NAME
    file = load_model(path, DefinitionFile, what="definition")
    if file.name != folder.name:
        raise HarnessError(f"{path}: key 'name': must equal the folder's name, {folder.name}")
    reference = folder / file.reference
    try:
        text = reference.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(
            f"{path}: key 'reference': {reference} cannot be read ({error})"
        ) from None
    return Definition(folder=folder, file=file, reference=text)


def discover_definitions(root: Path) -> dict[str, Definition]:
    """All definitions under `root`, by name."""
    folders = (path.parent for path in sorted(root.glob(f"*/{DEFINITION_NAME}")))
    return {folder.name: load_definition(folder) for folder in folders}
