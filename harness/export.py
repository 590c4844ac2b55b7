"""Solutions in the formats of FlashInfer-Bench and of its contest's starter kit."""

import json
from pathlib import Path

from harness.atomic import write_atomically
from harness.errors import HarnessError
from harness.manifest import Variant

STARTER_KIT_LANGUAGES = ("triton", "cuda")


def write_solution_json(variant: Variant, definition: str, out: Path) -> Path:
    """Write one solution as FlashInfer-Bench's Solution in JSON: a contest submission, or a file of a dataset.

    Raises:
        HarnessError: the solution is not one of that definition, or `out` is a folder.
    """
    _check_fit(variant, definition)
    if out.is_dir():
        raise HarnessError(
            f"OUT: {out} is a folder; name the file, such as {out / 'solution.json'}"
        )
    write_atomically(out, json.dumps(variant.solution_json(definition), indent=2) + "\n")
    return out


def write_starter_kit(variant: Variant, definition: str, folder: Path) -> Path:
    """Write what the contest's starter kit packs a submission from: config.toml and solution/<language>/.

    Raises:
        HarnessError: the folder is not empty, the kit does not know the language or the binding, or its packer, which takes the files
            of one folder, would not see all sources.
    """
    _check_fit(variant, definition)
    manifest = variant.manifest
    where = variant.folder / "manifest.yaml"
    if manifest.language not in STARTER_KIT_LANGUAGES:
        raise HarnessError(
            f"{where}: key 'language': the starter kit packs triton and cuda, not {manifest.language}; export it "
            "without --starter-kit"
        )
    if manifest.binding == "torch":
        raise HarnessError(
            f"{where}: key 'binding': the starter kit packs CUDA for tvm-ffi only; export it without --starter-kit"
        )
    if nested := [path for path in variant.sources if "/" in path]:
        raise HarnessError(
            f"{where}: key 'sources': {nested[0]} lies in a folder, which the starter kit does not pack; export it "
            "without --starter-kit"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HarnessError(f"--starter-kit: {folder} exists; name a folder that does not")
    values = {
        "solution": {
            "name": manifest.name,
            "definition": definition,
            "author": manifest.author,
        },
        "build": {
            "language": manifest.language,
            "entry_point": manifest.entry_point,
            "destination_passing_style": manifest.destination_passing_style,
        },
    }
    for path, text in variant.sources.items():
        write_atomically(folder / "solution" / manifest.language / path, text)
    write_atomically(folder / "config.toml", _toml(values))
    return folder


def _check_fit(variant: Variant, definition: str) -> None:
    if not variant.fits(definition):
        raise HarnessError(
            f"--definition: {variant.label} solves {', '.join(variant.manifest.definitions)}, not {definition}"
        )


def _toml(sections: dict[str, dict[str, str | bool]]) -> str:
    """Sections of strings and booleans; a JSON string is a TOML string as long as it is ASCII, as these are."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
        for name, section in sections.items()
    )
