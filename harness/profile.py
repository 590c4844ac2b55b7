"""Run profiles: tolerances, repetitions and runner, read from `configs/<profile>.yaml`."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import HarnessError
from harness.yamlfile import load_model


class Profile(BaseModel):
    """What is passed to `flashinfer-bench run`; nothing is left to its defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    summary: str
    """One line: what the profile is for."""
    rtol: float = Field(gt=0, allow_inf_nan=False)
    """An element fails when its relative error exceeds this and its absolute error exceeds `atol`."""
    atol: float = Field(gt=0, allow_inf_nan=False)
    """See `rtol`."""
    required_matched_ratio: float = Field(gt=0, le=1)
    """Share of elements that must not fail."""
    warmup_runs: int = Field(ge=0)
    """Untimed calls before the timed ones, per trial."""
    iterations: int = Field(gt=0)
    """Timed calls per trial."""
    num_trials: int = Field(gt=0)
    """Input sets; the latency is the mean of their means."""
    timeout: int = Field(gt=0)
    """Seconds one solution may take on one workload."""
    runner: Literal["persistent", "isolated"]
    """`persistent` reuses one process for all solutions, `isolated` starts one for each."""

    def flags(self) -> list[str]:
        """The profile as arguments of `flashinfer-bench run`."""
        flags = [
            *("--warmup-runs", str(self.warmup_runs)),
            *("--iterations", str(self.iterations)),
            *("--num-trials", str(self.num_trials)),
            *("--rtol", str(self.rtol)),
            *("--atol", str(self.atol)),
            *("--required-matched-ratio", str(self.required_matched_ratio)),
            *("--timeout", str(self.timeout)),
        ]
        return [*flags, "--use-isolated-runner"] if self.runner == "isolated" else flags


def load_profile(configs: Path, name: str) -> Profile:
    """Read `configs/<name>.yaml`.

    Raises:
        HarnessError: no such profile (the existing ones are named), or a key is missing, unknown or of a wrong type.
    """
    if Path(name).name != name:
        raise HarnessError(f"PROFILE: '{name}' is no name of a file; copy it to {configs}")
    return load_model(configs / f"{name}.yaml", Profile, what="profile")
