"""Profiles: the documented values, and refusal of wrong ones."""

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.paths import PROJECT
from harness.profile import load_profile

CONFIGS = PROJECT / "configs"


def test_documented_values() -> None:
    seed = load_profile(CONFIGS, "seed")
    assert (seed.rtol, seed.atol, seed.required_matched_ratio) == (0.2, 0.1, 0.85)
    assert (seed.warmup_runs, seed.iterations, seed.num_trials, seed.timeout) == (5, 20, 3, 600)
    contest = load_profile(CONFIGS, "contest")
    assert (contest.rtol, contest.atol, contest.required_matched_ratio) == (0.3, 1.0, 0.9)
    assert (contest.runner, contest.timeout) == ("isolated", 300)
    short = load_profile(CONFIGS, "contest-quick")
    assert (short.rtol, short.atol, short.required_matched_ratio) == (0.3, 1.0, 0.9)
    assert short.runner == "persistent"


def test_every_value_is_passed_explicitly() -> None:
    """flashinfer-bench's own defaults differ from the documented values, so none may be left out."""
    flags = load_profile(CONFIGS, "seed").flags()
    options = dict(zip(flags[::2], flags[1::2], strict=True))
    assert options == {
        "--warmup-runs": "5",
        "--iterations": "20",
        "--num-trials": "3",
        "--rtol": "0.2",
        "--atol": "0.1",
        "--required-matched-ratio": "0.85",
        "--timeout": "600",
    }
    assert load_profile(CONFIGS, "contest").flags()[-1] == "--use-isolated-runner"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rtol: 0.2", 'rtol: "0.2"', ["'rtol'", "'0.2'"]),
        ("rtol: 0.2", "rtol: much", ["'rtol'", "'much'"]),
        ("rtol: 0.2", "rtol: -1.0", ["'rtol'", "greater than 0"]),
        ("rtol: 0.2", "", ["'rtol'", "missing"]),
        ("rtol: 0.2", "rtol: 0.2\nrtoll: 0.2", ["'rtoll'", "did you mean 'rtol'"]),
        ("iterations: 20", "iterations: 2.5", ["'iterations'"]),
        ("runner: persistent", "runner: fast", ["'runner'"]),
    ],
)
def test_wrong_profile(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    text = (CONFIGS / "seed.yaml").read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    with pytest.raises(HarnessError) as error:
        load_profile(tmp_path, "mine")
    assert str(tmp_path / "mine.yaml") in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_unknown_profile_names_the_known() -> None:
    with pytest.raises(
        HarnessError, match="no such profile; there are: contest, contest-quick, quick, seed"
    ):
        load_profile(CONFIGS, "sead")
