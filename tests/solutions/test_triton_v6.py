"""triton_v6's GEMM1 counters, scales loaded ahead, table of tiles and its tuning."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests import moe_cases

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the variants here"),
    pytest.mark.usefixtures("poisoned_workspace"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
NAMES = ("route", "gemm1", "gemm2", "combine")
Run = Callable[..., None]


@pytest.fixture
def run() -> Run:
    return moe_cases.load_variant("triton_v6")


@pytest.mark.parametrize("entry", ["few", "some"])
@pytest.mark.parametrize("routing", ["one_expert", "half_local", "no_local"])
def test_calls_leave_counters_at_zero(run: Run, routing: str, entry: str) -> None:
    """Whatever the number of row blocks; rows beyond an expert's are not staged."""
    main, tiles = moe_cases.module(run, "main"), moe_cases.module(run, "tiles")
    inputs = moe_cases.make_inputs(37, 32, routing, hidden=128, inter=256)
    *tensors, offset, factor = inputs.args()
    output = moe_cases.poisoned_output(inputs)
    found = {t.name: t for t in tiles.TABLE}[entry]
    main._call((*tensors, output), offset, factor, 0, None, found)
    moe_cases.check(output, moe_cases.reference().run(*inputs.args()), inputs, entry)
    (workspace,) = main._WORKSPACES._workspaces.values()
    for name in ("counts", "arrived"):
        assert workspace.buffers[name].count_nonzero() == 0, name
    away = workspace.buffers["expert"].view(torch.int32)[: 37 * 8] < 0
    for name, columns in (("staged", 2 * 256), ("inter", 256)):
        rows = workspace.buffers[name][: 37 * 8 * columns].view(37 * 8, columns)
        assert (rows[away] == 0x7F).all(), f"{name}: rows of no local pair were written"


@pytest.mark.parametrize("entry", ["one", "few", "some"])
def test_bits_are_those_of_triton_v5(run: Run, entry: str) -> None:
    """Where scales are loaded and who rounds the intermediate changes no value."""
    inputs = moe_cases.make_inputs(20, 77, "one_expert", hidden=256, inter=256)
    other = moe_cases.load_variant("triton_v5")
    outputs = []
    for each in (run, other):
        tiles = {t.name: t for t in moe_cases.module(each, "tiles").TABLE}[entry]
        output = moe_cases.poisoned_output(inputs)
        moe_cases.module(each, "main").run_with(*inputs.args(), output, tiles=tiles)
        outputs.append(output)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("kernel", ["gemm1", "gemm2"])
@pytest.mark.parametrize("entry", ["few", "some"])
def test_scales_ahead_change_no_bit(run: Run, entry: str, kernel: str) -> None:
    """With fewer and with more 128-blocks than they are loaded ahead."""
    main = moe_cases.module(run, "main")
    tiles = {t.name: t for t in moe_cases.module(run, "tiles").TABLE}[entry]
    assert getattr(tiles, kernel).ahead
    without = replace(tiles, **{kernel: replace(getattr(tiles, kernel), ahead=False)})
    for hidden, inter in ((256, 128), (640, 640)):
        inputs = moe_cases.make_inputs(2, 32, "one_expert", hidden=hidden, inter=inter)
        outputs = [moe_cases.poisoned_output(inputs) for _ in range(2)]
        for output, each in zip(outputs, (tiles, without), strict=True):
            main.run_with(*inputs.args(), output, tiles=each)
        moe_cases.check(outputs[0], moe_cases.reference().run(*inputs.args()), inputs, entry)
        assert torch.equal(*outputs)


def test_scales_are_not_loaded_ahead_for_few_tokens(run: Run) -> None:
    tiles_for = moe_cases.module(run, "tiles").tiles_for
    ahead = {t: (tiles_for(t).gemm1.ahead, tiles_for(t).gemm2.ahead) for t in (1, 4, 5, 128, 129)}
    assert ahead == {t: (t > 4, t > 4) for t in ahead}


def test_tune_knows_the_kernels(run: Run) -> None:
    """Its candidates begin with the table's choice and fit the sizes; it hands each kernel what it takes."""
    __import__(run.__module__.replace(".main", ".tune"))
    tune, tiles = moe_cases.module(run, "tune"), moe_cases.module(run, "tiles")
    launch, workspace = moe_cases.module(run, "launch"), moe_cases.module(run, "workspace")
    assert {tiles.tiles_for(t).name for t in tune.CASES} == {entry.name for entry in tiles.TABLE}
    for tokens in tune.CASES:
        entry, args = tiles.tiles_for(tokens), tune.make_arguments(tokens, "meta")
        for kernel in tune.KERNELS:
            found = tune.candidates(kernel, entry)
            assert found[0] == getattr(entry, kernel) and len(found) == len(set(found)) > 4
            for gemm in found:
                step = tune.step_for(args, tune.Candidate(kernel, gemm, tokens))
                assert step.constants["AHEAD"] == gemm.ahead and not step.constants["PDL"]
                assert step.options["num_stages"] == gemm.stages
                assert (tune.INTER if kernel == "gemm1" else tune.HIDDEN) % gemm.block_m == 0
            buffers = workspace.buffers_for(
                workspace.Workspace(torch.device("meta")), tokens, 32, 7168, 2048, entry
            )
            values = tune.inputs(args, buffers, kernel)
            record = launch.Steps(*[lambda *handed: handed] * 4)
            fields_of = launch.fields_of
            handed = launch.launch(record, fields_of(args), fields_of(buffers), tokens, 0, 2.5)
            wanted = handed[NAMES.index(kernel)]
            assert len(wanted) == len(values) + 1 and wanted[-1] == tokens
            assert all(a is b for a, b in zip(wanted, values, strict=False))


def test_tune_routes_what_its_cases_say(run: Run) -> None:
    __import__(run.__module__.replace(".main", ".tune"))
    tune = moe_cases.module(run, "tune")
    for tokens, (pairs, active) in tune.CASES.items():
        if tokens > 1000:
            continue
        logits = tune.logits_for(tokens, pairs, active)
        bias = torch.zeros(tune.EXPERTS, dtype=torch.bfloat16)
        ids, _ = moe_cases.reference().route(logits, bias, 2.5)
        local = ids[ids < tune.LOCAL]
        assert (len(local), len(local.unique())) == (pairs, active), tokens
