"""Entry points are found wherever running the file would bind them, and not where it only looks so."""

import pytest

from harness.entry_point import in_cpp, in_python


@pytest.mark.parametrize(
    "code",
    [
        "def run(): ...",
        "async def run(): ...",
        "class run: ...",
        "from .x import run",
        "from .x import walk as run",
        "from .x import *",
        "import run",
        "run = print",
        "walk = run = print",
        "walk, (run, *rest) = a, (b, c)",
        "run: Callable = print",
        "if A:\n    pass\nelif B:\n    pass\nelse:\n    def run(): ...",
        "if A:\n    with b() as c:\n        run: Callable = c",
        "try:\n    from x import run\nexcept ImportError:\n    pass",
        "try:\n    pass\nexcept ImportError:\n    def run(): ...",
        "try:\n    pass\nexcept A:\n    pass\nelse:\n    run = a",
        "try:\n    pass\nfinally:\n    run = a",
        "with torch.no_grad():\n    def run(): ...",
        "with a() as run:\n    pass",
        "for run in a:\n    pass",
        "while A:\n    run = a",
        "match a:\n    case 1:\n        run = a",
        "def run(:",  # does not compile, which its cells will say
        "x = '\0'",
    ],
)
def test_python_with_the_entry_point(code: str) -> None:
    assert in_python(code, "run")


@pytest.mark.parametrize(
    "code",
    [
        "def rerun(): ...",
        "def outer():\n    def run(): ...",
        "class A:\n    def run(self): ...",
        "if A:\n    def outer():\n        run = 1",
        "import run as walk",
        "run: Callable",
        "x = run",
        "x.run = print",
        "run.x = print",
        "run[0] = print",
        "x = [run for run in a]",
        "x = lambda run: run",
        "# run = 1",
        "x = 'run'",
    ],
)
def test_python_without_it(code: str) -> None:
    assert not in_python(code, "run")


@pytest.mark.parametrize(
    "code",
    [
        "void run(Tensor a) {}",
        "TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, ns::walk);",
        'm.def("run", &walk);',
        'auto url = "http://a"; void run();',
        "char c = '\"'; void run(); // \"",
        "/* a */ void run(); /* b */",
        "// don't\nvoid run();",
    ],
)
def test_cpp_with_the_entry_point(code: str) -> None:
    assert in_cpp(code, "run")


@pytest.mark.parametrize(
    "code",
    ["void rerun();", "void run_all();", "// run", "/* a\n run\n */ int x;", 'int x; // "\n// run'],
)
def test_cpp_without_it(code: str) -> None:
    assert not in_cpp(code, "run")
