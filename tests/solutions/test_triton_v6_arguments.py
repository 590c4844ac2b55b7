"""What triton_v6 refuses of a call's arguments, with and without a plan for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests import moe_cases
from tests.solutions.stub_driver import Case, Run, as_bytes

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the variants here"),
    pytest.mark.usefixtures("poisoned_workspace"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
ARGUMENTS = (*moe_cases.Inputs.__dataclass_fields__, "output")
TENSORS = [*ARGUMENTS[:8], "output"]
Damage = Callable[[torch.Tensor], Any]
# What a damaged argument's error says; several arguments' errors where the others are what no longer fits.
DAMAGES: dict[str, tuple[type[Exception], str, Damage]] = {
    "no tensor": (TypeError, "NoneType, expected a tensor", lambda t: None),
    "another dtype": (TypeError, r"torch\.float16, expected torch\.\w+", lambda t: t.half()),
    "a dtype of the same size": (
        TypeError,
        r"torch\.u?int\d+, expected torch\.\w+",
        lambda t: t.view((torch.uint8, torch.int16, None, torch.int32)[t.element_size() - 1]),
    ),
    "another device": (ValueError, "on (meta|cpu), expected (meta|cpu)", lambda t: t.to("meta")),
    "one dimension more": (ValueError, r"shape \(1, .*\), expected .+", lambda t: t[None]),
    "fewer columns": (
        ValueError,
        r"(shape \(.+\)|\d+ columns), expected .+",
        lambda t: t[..., : t.shape[-1] - 1].contiguous(),
    ),
    "fewer rows": (ValueError, r"shape \(.+\), expected .+", lambda t: t[1:].contiguous()),
    "transposed": (ValueError, r"shape \(.+\), expected .+", lambda t: t.mT.contiguous()),
}
NOT_SQUARE = ("hidden_states_scale", "gemm2_weights_scale")
DAMAGED = [
    (what, name) for what in DAMAGES for name in (NOT_SQUARE if what == "transposed" else TENSORS)
]


@pytest.fixture
def run() -> Run:
    return moe_cases.load_variant("triton_v6")


@pytest.mark.parametrize("planned", [False, True], ids=["first", "planned"])
@pytest.mark.parametrize(("what", "name"), DAMAGED)
def test_what_does_not_fit_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, what: str, name: str, planned: bool
) -> None:
    """In one line that names the argument, before anything is launched, in a shape's first call and later."""
    case = Case(run, monkeypatch)
    main = case.planned() if planned else moe_cases.module(run, "main")
    kind, message, damage = DAMAGES[what]
    arguments = case.arguments()
    at = ARGUMENTS.index(name)
    arguments[at] = damage(arguments[at])
    sizes_of_others = name in ("hidden_states", "gemm2_weights", "routing_logits")
    named = r"\w+" if sizes_of_others and kind is ValueError else name
    with monkeypatch.context() as patch:
        patch.setattr(main, "launch", lambda *args: pytest.fail("launched"))
        with pytest.raises(kind, match=rf"^{named}: {message}$") as caught:
            run(*arguments)
    assert "\n" not in str(caught.value)
    assert not case.cuda.launched
    if planned:
        run(*case.arguments())
        assert len(case.cuda.launched) == 4, "the plan is as good as before"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden": 320}, "hidden_states: 320 columns, expected a multiple of 128"),
        ({"inter": 192}, "gemm2_weights: 192 columns, expected a multiple of 128"),
        ({"local": 0}, "gemm2_weights: 0 experts, expected one at least"),
        (
            {"hidden": 1 << 16, "inter": (1 << 14) + 128},
            "gemm1_weights: 33024 x 65536 values of an expert, expected 2147483648 at most",
        ),
        ({"experts": 24}, "routing_logits: 24 columns, expected a power of two from 16 on"),
        ({"experts": 8}, "routing_logits: 8 columns, expected a power of two from 16 on"),
    ],
    ids=str,
)
def test_sizes_that_kernels_cannot_are_refused(
    run: Run, sizes: dict[str, int], message: str
) -> None:
    found = {"hidden": 256, "inter": 128, "experts": 256, "local": 2, **sizes}
    h, i, e, n = found.values()
    shapes = [(3, e), (e,), (3, h), (h // 128, 3), (n, 2 * i, h), (n, 2 * i // 128, h // 128)]
    shapes += [(n, h, i), (n, h // 128, i // 128), (3, h)]
    arguments = moe_cases.module(run, "arguments")
    tensors = [
        torch.empty(shape, dtype=dtype, device="meta")
        for shape, dtype in zip(shapes, arguments.DTYPES, strict=True)
    ]
    with pytest.raises(ValueError, match=f"^{message}$"):
        arguments.check(tensors)


@pytest.mark.parametrize("planned", [False, True], ids=["first", "planned"])
@pytest.mark.parametrize(
    ("at", "value", "kind", "message"),
    [
        (8, 1 << 31, ValueError, "local_expert_offset: 2147483648, expected 32 bits"),
        (8, -(1 << 31) - 1, ValueError, "local_expert_offset: -2147483649, expected 32 bits"),
        (8, 1 << 70, ValueError, "local_expert_offset: 1180591620717411303424, expected 32 bits"),
        (8, 32.0, TypeError, "local_expert_offset: .*float.*"),
        (8, "32", TypeError, "local_expert_offset: .*str.*"),
        (9, "2.5", TypeError, "routed_scaling_factor: .*str.*"),
        (9, 1e39, ValueError, r"routed_scaling_factor: 1e\+39, expected a float32"),
        (9, 10**400, ValueError, "routed_scaling_factor: int too large to convert to float"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    value: Any,
    kind: type[Exception],
    message: str,
    planned: bool,
) -> None:
    """Before anything else: what is there for the next call stays."""
    case = Case(run, monkeypatch)
    main = case.planned() if planned else moe_cases.module(run, "main")
    arguments = case.arguments()
    arguments[at] = value
    with monkeypatch.context() as patch:
        patch.setattr(main, "_run", lambda *args: pytest.fail("went on"))
        with pytest.raises(kind, match=f"^{message}$"):
            run(*arguments)
    assert len(main._WORKSPACES._workspaces) == planned


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 3.4028234663852886e38, 2])
@pytest.mark.parametrize("offset", [-(1 << 31), -1, (1 << 31) - 1])
def test_numbers_of_32_bits_are_launched(
    run: Run, monkeypatch: pytest.MonkeyPatch, offset: int, factor: float
) -> None:
    case = Case(run, monkeypatch)
    case.planned()
    case.offset, case.factor = offset, factor
    run(*case.arguments())
    values = [as_bytes(offset), as_bytes(float(factor))]
    assert case.cuda.launched[0].parameters[-4:-2] == values
