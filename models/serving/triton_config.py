"""Writes Triton's config.pbtxt for the generator: which versions serve, and the tensors of the
contract.

`dynamic_batching {}` has no queue policy (one stalls requests for 500 ms); lists are ragged and no
input is optional (else nothing ever batches); a `load` with a config override would be lost at a
restart, so the file itself names the versions.
"""

from collections.abc import Sequence
from pathlib import Path

from models.serving.policy_directory import PolicyDirectoryInvalid, published_versions
from models.serving.version_folder import CONFIG_NAME, replace_config

MODEL = "generator"
MAX_BATCH = (
    16  # decoding is a few ms a request: a larger batch makes its first request wait too long
)

_HEAD = """\
name: "{model}"
backend: "python"
max_batch_size: {batch}
input [
{inputs}
]
output [
{outputs}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ }}
version_policy {{ specific {{ versions: [ {versions} ] }} }}
parameters [ {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: {{ string_value: "yes" }} }} ]
"""
_RAGGED = ("HISTORY_KEYS", "HISTORY_ACTIONS", "HISTORY_GAPS", "EXCLUDE")
_SINGLE = ("SCENARIO", "TRIGGER", "HAS_INSTRUCTION", "BEAMS")


def render_config(versions: Sequence[int], *, content_dim: int, levels: int) -> str:
    """Returns the text of config.pbtxt that serves exactly `versions`."""
    inputs = [_tensor(name, "INT64", "-1", ragged=True) for name in _RAGGED]
    inputs += [_tensor(name, "INT64", "1") for name in _SINGLE]
    inputs += [_tensor("INSTRUCTION", "FP16", str(content_dim))]
    outputs = [
        _tensor("ITEM_KEYS", "INT64", "-1"),
        _tensor("ITEM_CODES", "INT32", f"-1, {levels}"),
        _tensor("ITEM_LOGPROBS", "FP32", f"-1, {levels}"),
        _tensor("ITEM_SCORES", "FP32", "-1"),
        _tensor("ITEM_TABLE_TERMS", "FP32", "-1"),
        _tensor("VERSIONS", "INT64", "3"),
    ]
    return _HEAD.format(
        model=MODEL,
        batch=MAX_BATCH,
        inputs=",\n".join(inputs),
        outputs=",\n".join(outputs),
        versions=", ".join(map(str, sorted(versions))),
    )


def write_config(
    repository: Path, versions: Sequence[int], *, content_dim: int, levels: int
) -> Path:
    """Replaces `repository/config.pbtxt` atomically; `repository` is `model_repository/generator`.

    Raises `PolicyDirectoryInvalid` for a version that is not there: Triton would hang on loading
    it.
    """
    path = repository / CONFIG_NAME
    present = published_versions(repository)
    if not versions or (missing := sorted(set(versions) - set(present))):
        found = f"versions {present}"
        wanted = f"version {missing[0]}" if versions else "at least one version to serve"
        raise PolicyDirectoryInvalid(path=path, found=found, wanted=wanted)
    text = render_config(versions, content_dim=content_dim, levels=levels)
    return replace_config(repository, text)


def _tensor(name: str, dtype: str, dims: str, *, ragged: bool = False) -> str:
    flag = " allow_ragged_batch: true" if ragged else ""
    return f'  {{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ]{flag} }}'
