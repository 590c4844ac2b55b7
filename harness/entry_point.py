"""Whether a source file has its solution's entry point, as far as that can be told without building it."""

import ast
import re
from collections.abc import Iterator

COMMENT_OR_STRING = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
"""In C++. Strings are found too, so that one which holds `//` begins no comment."""


def in_python(source: str, function: str) -> bool:
    """Whether running the module can bind `function`: defined, imported or assigned, whichever way its branches go.

    True for a file that does not compile: that is a failed cell with its log, not bad input.
    """
    try:
        names = set(_bound(ast.parse(source)))
    except (SyntaxError, ValueError):  # the latter for null bytes
        return True
    return function in names or "*" in names


def in_cpp(source: str, function: str) -> bool:
    """Whether C++ or CUDA code names `function` outside its comments; macros may declare it, so no more is asked."""
    code = COMMENT_OR_STRING.sub(lambda m: " " if m[0].startswith("/") else m[0], source)
    return re.search(rf"\b{function}\b", code) is not None


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield child.name  # and nothing of its body, which has names of its own
        elif isinstance(child, ast.alias):
            yield child.asname or child.name
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.AnnAssign) and child.value is None:
            continue  # `run: Callable` alone binds nothing
        # Of expressions only the targets: what a comprehension or a lambda binds does not outlive it.
        elif not isinstance(child, ast.expr) or isinstance(getattr(child, "ctx", None), ast.Store):
            yield from _bound(child)
