"""What the functions that measure and check are, before a solution is loaded and after it ran.

Taken in the solution's own process, so it is a hint: it finds whoever replaces torch's, flashinfer-bench's or the clock's
functions and leaves them so, and nobody who puts them back in time.
"""

import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

OWNERS = (
    "builtins",
    "time",
    "json",
    "threading",
    "torch",
    "torch.cuda",
    "torch.cuda.streams",
    "torch.cuda.memory",
    "torch.cuda.graphs",
    "torch.random",
    "torch.linalg",
    "torch.nn.functional",
    "torch.testing",
    "torch.utils.benchmark",
    "triton.testing",
)
"""Modules whose functions and classes are watched, besides all of flashinfer-bench and this harness."""
CLASSES = (
    ("torch", "Tensor"),
    ("torch", "Generator"),
    ("torch.cuda", "Event"),
    ("torch.cuda", "Stream"),
)
"""Classes whose own attributes are watched, base classes included."""
FUNCTIONS = (("sys", "_current_frames"),)
"""Single functions of modules that change others of their own."""
IMPORTED = {"torch.manual_seed"}
"""What torch itself replaces when torch._dynamo is imported, as by torch.compile and some libraries."""
PREFIXES = ("flashinfer_bench", "harness")
CALLABLES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    type,
    property,
    staticmethod,
    classmethod,
)


def take() -> dict[str, str]:
    """A mark for every watched function by its dotted name: its identity and, of Python functions, their code and defaults."""
    return {name: _mark(value) for name, value in _watched()}


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names that mean something else now; those that came along since are none of them."""
    return sorted(
        name for name, mark in before.items() if after.get(name) != mark and name not in IMPORTED
    )


def _watched() -> Iterator[tuple[str, Any]]:
    modules = [name for name in OWNERS if name in sys.modules]
    modules += [
        name for name in list(sys.modules) if name.split(".")[0] in PREFIXES and name != __name__
    ]
    for name in modules:
        module = sys.modules[name]
        ours = name.split(".")[0] in PREFIXES
        for attribute, value in list(vars(module).items()):
            if isinstance(value, CALLABLES) or (ours and isinstance(value, types.ModuleType)):
                yield f"{name}.{attribute}", value
                if ours and isinstance(value, type) and value.__module__ == name:
                    yield from _members(f"{name}.{attribute}", value)
    for name, attribute in FUNCTIONS:
        yield f"{name}.{attribute}", getattr(sys.modules[name], attribute)
    for name, class_name in CLASSES:
        if name in sys.modules and hasattr(sys.modules[name], class_name):
            cls = getattr(sys.modules[name], class_name)
            if not isinstance(cls, type):  # replaced, which its module's own attribute shows
                continue
            # Bases first: of two attributes of one name the mark of the nearer class stands, which is what callers get. So
            # an override that came along counts as a change, too.
            for base in reversed(cls.__mro__[:-1]):
                yield from _members(f"{name}.{class_name}", base)


def _members(prefix: str, cls: type) -> Iterator[tuple[str, Any]]:
    for attribute, value in list(vars(cls).items()):
        if isinstance(value, CALLABLES) and not attribute.startswith("__pydantic"):
            yield f"{prefix}.{attribute}", value


def _mark(value: Any) -> str:
    function = getattr(value, "__func__", value)
    code = getattr(function, "__code__", None)
    if code is None:
        return str(id(value))
    consts = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    digest = hashlib.sha256(code.co_code + repr(consts).encode()).hexdigest()[:16]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return f"{id(value)}:{digest}:{list(map(id, defaults))}"
