"""Solution folders: the manifest's schema, a survey of all folders, and selection by any of a solution's names."""

import hashlib
import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.entry_point import in_cpp, in_python
from harness.errors import HarnessError
from harness.record import SolutionInfo
from harness.yamlfile import load_model

MANIFEST_NAME = "manifest.yaml"
ALL = "all"
"""Where solutions are named: every one."""
COMPILED_LANGUAGES = ("cuda", "cpp")
PYTHON_LANGUAGES = ("python", "triton", "tilelang")


class Requires(BaseModel):
    """What a solution needs beyond the harness; unmet, it is skipped with its reason."""

    model_config = ConfigDict(extra="forbid", strict=True)

    compute_capabilities: list[str] = Field(default_factory=list)
    """GPU architectures it runs on, such as "9.0"; empty: any."""
    packages: list[str] = Field(default_factory=list)
    """Importable Python packages."""
    gpu: bool = False
    """True: it cannot run on the CPU backend, though its language could."""

    def described(self) -> str:
        """'compute capability 9.0 or 10.0; sgl_kernel', or 'nothing'."""
        parts = []
        if self.compute_capabilities:
            parts.append(f"compute capability {' or '.join(self.compute_capabilities)}")
        elif self.gpu:
            parts.append("a GPU")
        return "; ".join(parts + self.packages) or "nothing"


class Manifest(BaseModel):
    """`solutions/<variant>/manifest.yaml`; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", examples=["triton_fused_moe_v2"])
    """FlashInfer-Bench solution name, unique among the folders."""
    label: str | None = Field(
        default=None,
        # Printable, so that it can stand in a terminal, a table and a chart; no space at its ends.
        pattern=r"^[^\p{C}\p{Z}](?:[^\p{C}\p{Zl}\p{Zp}]*[^\p{C}\p{Z}])?$",
        examples=["triton_v2"],
    )
    """Short name of printable characters, the column heading; default: the folder's name."""
    summary: str = Field(min_length=1)
    """One line, the "Key difference" column."""
    author: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$", examples=["jane_doe"])
    """Like the name, it becomes a folder of the staged dataset."""
    definitions: list[str] = Field(min_length=1)
    """Definition names, or globs that match several of one family."""
    language: Literal["triton", "python", "cuda", "cpp", "tilelang"]
    binding: Literal["tvm-ffi", "torch"] | None = None
    """What makes CUDA or C++ code callable from Python; None: flashinfer-bench's default, tvm-ffi."""
    entry_point: str = Field(pattern=r"^[^:]+::[A-Za-z_]\w*$", examples=["main.py::run"])
    """`file::function`."""
    destination_passing_style: bool
    """True: the function gets its output as last argument. False: it returns it."""
    sources: list[str] = Field(min_length=1)
    """Every file that makes up the solution: its plain path below the folder, such as kernels/gemm.cuh."""
    dependencies: list[str] = Field(default_factory=list)
    """Libraries for flashinfer-bench's builder, such as cublas or cutlass."""
    requires: Requires = Field(default_factory=Requires)
    state: Literal["none", "workspace", "cuda_graph"]
    """What the module keeps between calls."""
    notes: str = ""
    """Free markdown, shown in the report."""


class Variant(BaseModel):
    """A solution folder whose manifest and sources were checked."""

    folder: Path
    manifest: Manifest
    sources: dict[str, str]
    """File name to content."""

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def label(self) -> str:
        return self.manifest.label or self.folder.name

    @property
    def names(self) -> set[str]:
        """All the names by which a user may call it."""
        return {self.folder.name, self.label, self.name}

    @property
    def is_compiled_once(self) -> bool:
        """Whether flashinfer-bench compiles it, with or without a GPU, and finds it compiled later: as tvm-ffi's builder does, while
        torch's asks for a GPU and begins anew in every process."""
        return self.manifest.language in COMPILED_LANGUAGES and self.manifest.binding != "torch"

    @property
    def is_compiled_anew(self) -> bool:
        """Whether every process that builds it compiles it."""
        return self.manifest.language in COMPILED_LANGUAGES and not self.is_compiled_once

    def fits(self, definition: str) -> bool:
        """Whether the manifest says that it solves `definition`."""
        return any(fnmatchcase(definition, pattern) for pattern in self.manifest.definitions)

    def source_hash(self) -> str:
        """SHA-256 of everything that can change what the solution computes or how it is called."""
        m = self.manifest
        built_from = [
            [m.name, m.language, m.entry_point, m.destination_passing_style, m.dependencies],
            sorted(self.sources.items()),
        ]
        if m.binding:  # younger than many records, whose hashes are to stay
            built_from[0].append(m.binding)
        return hashlib.sha256(json.dumps(built_from).encode()).hexdigest()

    def info(self) -> SolutionInfo:
        """What the run record says of it."""
        m = self.manifest
        return SolutionInfo(
            name=m.name,
            label=self.label,
            folder=self.folder.name,
            summary=m.summary,
            author=m.author,
            language=m.language,
            state=m.state,
            notes=m.notes,
            source_hash=self.source_hash(),
            manifest=m.model_dump(mode="json"),
        )

    def solution_json(self, definition: str) -> dict[str, object]:
        """The folder in FlashInfer-Bench's solution format, for one definition."""
        m = self.manifest
        spec: dict[str, object] = {
            "language": m.language,
            "target_hardware": ["cuda"],
            "entry_point": m.entry_point,
            "dependencies": m.dependencies,
            "destination_passing_style": m.destination_passing_style,
        }
        if m.binding:
            spec["binding"] = m.binding
        return {
            "name": m.name,
            "definition": definition,
            "author": m.author,
            "description": m.summary,
            "spec": spec,
            "sources": [{"path": path, "content": text} for path, text in self.sources.items()],
        }


def load_variant(folder: Path) -> Variant:
    """Read and check one solution folder.

    Raises:
        HarnessError: a key is unknown, missing or wrong; a source is absent, empty, outside the folder or not named by
            its plain path; the entry point is not there.
    """
    path = folder / MANIFEST_NAME
    manifest = load_model(path, Manifest, what="manifest")
    sources: dict[str, str] = {}
    for name in manifest.sources:
        _check_source_name(path, name)
        if name in sources:
            raise HarnessError(f"{path}: key 'sources': {name} is listed twice; list it once")
        sources[name] = _read_source(path, name)
    _check_entry_point(path, manifest, sources)
    if manifest.binding and manifest.language not in COMPILED_LANGUAGES:
        raise HarnessError(
            f"{path}: key 'binding': {manifest.language} code needs none; leave it out"
        )
    return Variant(folder=folder, manifest=manifest, sources=sources)


def _check_source_name(manifest: Path, name: str) -> None:
    # FlashInfer-Bench and the exports create files under these very names: one spelling for each, none that leads out.
    folder = manifest.parent.resolve().as_posix()
    plain = posixpath.relpath(posixpath.join(folder, name.replace("\\", "/")), folder)
    if plain.split("/")[0] in (".", ".."):
        raise HarnessError(
            f"{manifest}: key 'sources': '{name}' is no file inside {manifest.parent}; copy it in and write its name there"
        )
    if plain != name:
        raise HarnessError(
            f"{manifest}: key 'sources': '{name}' is no plain path relative to {manifest.parent}; write '{plain}'"
        )


def _read_source(manifest: Path, name: str) -> str:
    folder = manifest.parent
    source = folder / name
    try:
        if not source.resolve().is_relative_to(folder.resolve()):
            raise HarnessError(
                f"{manifest}: key 'sources': {name} lies outside {folder}; copy it in"
            )
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise HarnessError(
            f"{manifest}: key 'sources': {source} does not exist; create it or take it off the list"
        ) from None
    except (OSError, UnicodeDecodeError, RuntimeError) as error:  # the last: a loop of links
        raise HarnessError(
            f"{manifest}: key 'sources': {source} cannot be read as text ({error}); mend it"
        ) from None
    if not text.strip():
        raise HarnessError(f"{manifest}: key 'sources': {source} is empty; fill it or remove it")
    return text


def _check_entry_point(path: Path, manifest: Manifest, sources: dict[str, str]) -> None:
    file, function = manifest.entry_point.split("::")
    if file not in sources:
        raise HarnessError(
            f"{path}: key 'entry_point': {file} is not among 'sources' ({', '.join(sources)}); add it there"
        )
    has = in_python if manifest.language in PYTHON_LANGUAGES else in_cpp
    if not has(sources[file], function):
        raise HarnessError(
            f"{path}: key 'entry_point': {path.parent / file} has no '{function}'; define it or name another"
        )


@dataclass(frozen=True)
class Survey:
    """All solution folders: those that can be used, and those that cannot."""

    folder: Path
    """Where they lie."""
    variants: list[Variant]
    """Sorted by folder name."""
    broken: dict[str, HarnessError]
    """By folder name, sorted, what is wrong with it: `load_variant` refuses it, or another folder answers to one of its names."""


def survey(solutions: Path) -> Survey:
    """Read every solution folder under `solutions`; one that is broken does not keep others from being used.

    Raises:
        HarnessError: there is no folder `solutions`.
    """
    if not solutions.is_dir():
        raise HarnessError(f"{solutions}: no such folder; it must hold one folder per solution")
    variants: list[Variant] = []
    broken: dict[str, HarnessError] = {}
    for path in sorted(solutions.glob(f"*/{MANIFEST_NAME}")):
        try:
            variants.append(load_variant(path.parent))
        except HarnessError as error:
            broken[path.parent.name] = error
    for folder, error in _clashes(variants):
        broken.setdefault(folder, error)
    good = [v for v in variants if v.folder.name not in broken]
    return Survey(solutions, good, dict(sorted(broken.items())))


def _clashes(variants: list[Variant]) -> Iterator[tuple[str, HarnessError]]:
    """The folders that could be called by one name, each with what is wrong."""
    owner = {variant.folder.name: variant for variant in variants}
    for variant in variants:
        for key, name in (("name", variant.name), ("label", variant.label)):
            where = f"{variant.folder / MANIFEST_NAME}: key '{key}':"
            other = owner.setdefault(name, variant)
            if other is not variant:
                error = HarnessError(
                    f"{where} '{name}' is taken by {other.folder / MANIFEST_NAME}; of '{variant.folder.name}' and "
                    f"'{other.folder.name}', rename the one that is newer or a copy"
                )
                yield variant.folder.name, error
                yield other.folder.name, error
            if name == ALL:
                error = HarnessError(f"{where} '{ALL}' means every solution; choose another")
                yield variant.folder.name, error


def select(found: Survey, wanted: list[str], what: str = "SOLUTIONS") -> list[Variant]:
    """The variants called by folder, label or full name, in the order asked for; `all` means every one.

    Args:
        what: how the user said it, for messages: a variable of make or an option.

    Raises:
        HarnessError: a name fits none, and the nearest are named; a folder asked for is broken.
    """
    chosen: dict[str, Variant] = {}
    for name in wanted:
        asked = found.broken if name == ALL else {name} & found.broken.keys()
        for broken in asked:
            raise found.broken[broken]
        fitting = found.variants if name == ALL else [v for v in found.variants if name in v.names]
        if not fitting:
            known = sorted({n for v in found.variants for n in v.names})
            near = get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"
            if found.broken:  # what they are called besides is not known
                hint += f"; cannot be used: {', '.join(found.broken)}"
            folder = found.folder / name
            if folder.is_dir() and not (folder / MANIFEST_NAME).exists():
                hint = f"{folder} has no {MANIFEST_NAME}, which makes a folder one"
            raise HarnessError(f"{what}: no solution is called '{name}'; {hint}")
        chosen.update((v.name, v) for v in fitting)
    return list(chosen.values())


def select_one(found: Survey, name: str, what: str) -> Variant:
    """The one variant called by folder, label or full name.

    Raises:
        HarnessError: as `select`, or the name means every one.
    """
    if name == ALL:
        raise HarnessError(f"{what}: '{ALL}' means every solution, and one is asked for; name it")
    return select(found, [name], what)[0]
