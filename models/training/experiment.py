"""One TOML file an experiment: the fields of `FitConfig`, its parts as tables.

preset = "tiny"
features = "fused"       # semantic IDs from text and behaviour (the default); text: from text alone
[sizes]                  # what differs from the preset, by the names of `GeneratorConfig`
retrieved = 10
[neighbours]             # weight 0, the default: no table re-ranks
weight = 0.4
[training]
steps = 2_000
device = "auto"          # cpu (the default), cuda, or cuda where there is one
precision = "bf16"       # or float32
compile = false          # CUDA alone
[training.instructions]
default = 0.3
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from models.training.fit import FitConfig
from schemas.errors import OxygenRecError

T = TypeVar("T")


class ExperimentInvalid(OxygenRecError):
    """A file that is no experiment; `key` is the dotted name of what is wrong."""

    def __init__(self, *, path: Path, key: str, found: str, wanted: str) -> None:
        self.path = path
        self.key = key
        super().__init__(f"experiment {path}: {key}: found {found}, wanted {wanted}")


def read_experiment(path: Path) -> FitConfig:
    """Returns the configuration that the file describes. Raises `ExperimentInvalid`."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # missing, not UTF-8, or not TOML
        wanted = "a readable TOML file"
        raise ExperimentInvalid(path=path, key="file", found=str(error), wanted=wanted) from error
    return _built(FitConfig, table, path, "")


def _built(wanted: type[T], table: Mapping[str, Any], path: Path, above: str) -> T:
    """Returns the dataclass that a table fills in part; tables in it are its own parts."""
    types = get_type_hints(wanted)
    known = [field.name for field in fields(wanted)]  # type: ignore[arg-type]  # a dataclass
    values: dict[str, Any] = {}
    for name, value in table.items():
        key = above + name
        if name not in known:
            near = get_close_matches(name, known, n=1) or known
            found = f"no setting of that name (value {value!r})"
            raise ExperimentInvalid(path=path, key=key, found=found, wanted=", ".join(near))
        kind = types[name]
        if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
            values[name] = _built(kind, value, path, f"{key}.")
            continue
        try:
            values[name] = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ExperimentInvalid(
                path=path, key=key, found=f"{value!r} ({error})", wanted=_named(kind)
            ) from error
    return wanted(**values)


def _named(kind: Any) -> str:
    """Returns a type in words: the values of a choice, a name."""
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    return str(getattr(kind, "__name__", kind))
