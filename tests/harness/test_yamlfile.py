"""An error names the key and what fits there: the keys and examples of the mapping that it stands in, not of the file."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from harness.errors import HarnessError
from harness.yamlfile import load_yaml, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    shape: list[str] | None = None
    code: str = Field(default="a1", pattern=r"^[a-z]\d$", examples=["a1"])


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    shade: str = ""
    code: str = Field(default="OUTER", examples=["OUTER"])
    one: Inner = Field(default_factory=Inner)
    perhaps: Inner | None = None
    several: list[Inner] = Field(default_factory=list)
    named: dict[str, Inner] = Field(default_factory=dict)
    words: list[str] = Field(default_factory=list)


def places(inner: dict) -> list[tuple[dict, str]]:
    """Everywhere that an Inner can stand, with its key; a name in `named` may be that of a field."""
    return [
        ({"one": inner}, "one"),
        ({"perhaps": inner}, "perhaps"),
        ({"several": [{}, inner]}, "several.1"),
        ({"named": {"shade": inner}}, "named.shade"),
        ({"named": {"shape": inner}}, "named.shape"),
    ]


@pytest.mark.parametrize(("data", "key"), places({"shap": []}))
def test_nearest_key_of_the_mapping(data: dict, key: str) -> None:
    with pytest.raises(HarnessError) as error:
        validate(data, Outer, Path("a.yaml"))
    assert str(error.value) == f"a.yaml: key '{key}.shap': is not known; did you mean 'shape'?"


@pytest.mark.parametrize(("data", "key"), places({"zzz": 1}))
def test_known_keys_of_the_mapping(data: dict, key: str) -> None:
    with pytest.raises(HarnessError) as error:
        validate(data, Outer, Path("a.yaml"))
    assert str(error.value) == f"a.yaml: key '{key}.zzz': is not known; known keys: shape, code"


@pytest.mark.parametrize(("data", "key"), places({"code": "?"}))
def test_example_of_the_mapping(data: dict, key: str) -> None:
    with pytest.raises(HarnessError) as error:
        validate(data, Outer, Path("a.yaml"))
    assert str(error.value) == f"a.yaml: key '{key}.code': must look like 'a1', got '?'"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shad": ""}, "key 'shad': is not known; did you mean 'shade'?"),
        ({"code": 1, "shad": ""}, "key 'shad': is not known; did you mean 'shade'?"),
        ({"words": ["a", 2]}, "key 'words.1': Input should be a valid string, got 2"),
        ({"one": {"shape": ["a", 2]}}, "key 'one.shape.1': Input should be a valid string, got 2"),
    ],
)
def test_other_errors(data: dict, message: str) -> None:
    with pytest.raises(HarnessError) as error:
        validate(data, Outer, Path("a.yaml"))
    assert str(error.value).startswith(f"a.yaml: {message}")


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    """Plain YAML would take the last one."""
    path = tmp_path / "manifest.yaml"
    path.write_text("name: a\nlabel: b\nname: c\n")
    with pytest.raises(HarnessError, match="key 'name' stands twice; remove one"):
        load_yaml(path, "manifest")


@pytest.mark.parametrize(
    ("got", "fix"),
    [("loose", "write a number, such as 0.2"), ("1e-1", "write 0.1, without quotes")],
)
def test_a_number_as_text(got: str, fix: str) -> None:
    class Profile(BaseModel):
        model_config = ConfigDict(strict=True)

        rtol: float

    with pytest.raises(HarnessError, match=f"p.yaml: key 'rtol': .*{fix}"):
        validate({"rtol": got}, Profile, Path("p.yaml"))
