"""Every folder under solutions/ has the entry point that flashinfer-bench asks for."""

import ast

import pytest

from harness.definition import FULL, load_definition
from harness.manifest import COMPILED_LANGUAGES
from tests import moe_cases
from tests.harness.folders import discover

VARIANTS = [
    variant
    for variant in discover(moe_cases.ROOT / "solutions")
    if variant.manifest.language not in COMPILED_LANGUAGES
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_takes_inputs_and_outputs_and_nothing_else(variant) -> None:
    """flashinfer-bench refuses to build a function with any other number of parameters, optional ones included."""
    definition = load_definition(moe_cases.ROOT / "definitions" / FULL).definition_json()
    wanted = len(definition["inputs"])
    if variant.manifest.destination_passing_style:
        wanted += len(definition["outputs"])
    file, name = variant.manifest.entry_point.split("::")
    tree = ast.parse((variant.folder / file).read_text(encoding="utf-8"))
    entry = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    arguments = entry.args
    assert len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) == wanted
