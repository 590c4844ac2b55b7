"""Read YAML files into pydantic models, with one-line errors."""

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import HarnessError

Model = TypeVar("Model", bound=BaseModel)

FIXES = {
    "float_type": "; write a number, such as 0.2, without quotes",
    "int_type": "; write a whole number, such as 3, without quotes",
    "bool_type": "; write true or false",
    "list_type": "; write a list, such as [a, b]",
    "string_type": "; write text, in quotes if it looks like a number",
}
"""What to do, by pydantic's name of the error."""


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, where plain YAML lets the last one win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"key '{key.value}' stands twice; remove one"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, what: str) -> Any:
    """Parse one YAML file.

    Raises:
        HarnessError: the file is absent (its siblings are named), unreadable or not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        hint = f"there are: {', '.join(there)}" if there else f"{path.parent} has no .yaml file"
        raise HarnessError(f"{path}: no such {what}; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({error}); mend the file") from None
    except yaml.YAMLError as error:
        raise HarnessError(f"{path}: is not valid YAML: {_where(error)}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # What PyYAML's constructors raise, of a date such as 2024-13-45.
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise HarnessError(
            f"{path}: has a value that YAML cannot read ({problem:.80}); put it in quotes, or mend it"
        ) from None


def load_model(path: Path, model: type[Model], what: str) -> Model:
    """Parse one YAML file into `model`.

    Raises:
        HarnessError: as `load_yaml`, or the content does not fit; file, key and fix are named.
    """
    return validate(load_yaml(path, what), model, path)


def validate(data: Any, model: type[Model], path: Path) -> Model:
    """Check `data`, read from `path`, against `model`.

    Raises:
        HarnessError: naming a key that does not fit, and the fix; one that is not known comes first.
    """
    if not isinstance(data, dict):
        raise HarnessError(f"{path}: must be a mapping of keys to values, not {data!r:.40}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A key that is not known is often one that is missing, misspelt: it says more.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise HarnessError(f"{path}: key '{key}': {_explain(first, model)}") from None


def _where(error: yaml.YAMLError) -> str:
    """'line 3, column 7: mapping values are not allowed here'."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"


def _explain(error: Any, model: type[BaseModel]) -> str:
    owner, key = _owner(model, error["loc"])
    if error["type"] == "extra_forbidden":
        near = get_close_matches(key, owner.model_fields, n=1)
        fix = (
            f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(owner.model_fields)}"
        )
        return f"is not known; {fix}"
    if error["type"] == "missing":
        return "is missing; add it"
    field = owner.model_fields.get(key)
    if error["type"] == "string_pattern_mismatch" and field and field.examples:
        return f"must look like '{field.examples[0]}', got {error['input']!r:.60}"
    got = error["input"]
    fix = FIXES.get(error["type"], "")
    if error["type"] in ("float_type", "int_type") and isinstance(got, str):
        with suppress(ValueError):  # YAML takes 1e-1 and "0.1" for text
            fix = f"; write {float(got):g}, without quotes"
    return f"{error['msg']}, got {got!r:.60}{fix}"


def _owner(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[type[BaseModel], str]:
    """The innermost model on the way along `loc`, and the last key of it on that way."""
    owner, key, here = model, "", model
    for part in loc:
        if get_origin(here) in (Union, UnionType):
            here = next(arg for arg in get_args(here) if arg is not NoneType)
        if get_origin(here) is None and isinstance(here, type) and issubclass(here, BaseModel):
            owner, key = here, str(part)
            field = owner.model_fields.get(key)
            here = field.annotation if field else None
        else:  # an item of a list[X] or dict[str, X]
            here = next(reversed(get_args(here)), None)
    return owner, key
