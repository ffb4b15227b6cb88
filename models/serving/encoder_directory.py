"""The text encoder as Triton's second model: `model_repository/text_encoder/<generation>/`.

A generation whose encoder needs torch holds the encoder's own folder, and a version is a copy of
it under the generation's number: agents ask for the version of their generation. config.pbtxt says
`all {}` and no sizes, so that it never changes: what shall not serve any more is removed. No torch
here: agents write a version, the model loads it.
"""

import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from models.serving.version_folder import (
    CONFIG_NAME,
    MANIFEST_NAME,
    replace_config,
    version_draft,
)
from schemas.encoding import EncoderMismatch

MODEL = "text_encoder"
FOLDER = "text_encoder"  # of a generation: the encoder's own files
MODEL_LINE = "from agents.triton_text_encoder import TritonPythonModel as TritonPythonModel\n"
# A batch is one pass of the encoder: 16 short texts take about 50 ms on one thread.
CONFIG = """\
name: "text_encoder"
backend: "python"
max_batch_size: 16
input [
  { name: "TEXT_BYTES" data_type: TYPE_UINT8 dims: [ -1 ] allow_ragged_batch: true },
  { name: "TEXT_ENDS" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true }
]
output [
  { name: "VECTORS" data_type: TYPE_FP32 dims: [ -1, -1 ] },
  { name: "ENCODER_ID" data_type: TYPE_UINT8 dims: [ -1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { }
version_policy { all { } }
parameters [ { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: { string_value: "yes" } } ]
"""


class EncoderManifest(Struct, frozen=True, kw_only=True):
    """What a version is: `encoder_id` hashes its files, so that it is their checksum too."""

    generation: int
    encoder_id: str


def write_encoder_version(repository: Path, source: Path, manifest: EncoderManifest) -> Path:
    """Writes `repository/<generation>` from the encoder's folder `source`; returns it.

    `repository` is the model's folder (`model_repository/text_encoder`). A version that holds the
    same encoder is left as it is. Raises `EncoderMismatch` where it holds another.
    """
    target = repository / str(manifest.generation)
    if not target.exists():
        with version_draft(target, MODEL_LINE) as draft:
            shutil.copytree(source, draft, dirs_exist_ok=True)
            (draft / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest) + b"\n")
    elif (found := read_encoder_manifest(target).encoder_id) != manifest.encoder_id:
        raise EncoderMismatch(
            place=str(target),
            found=found,
            wanted=manifest.encoder_id,
            remedy="a version never changes: give the generation another number",
        )
    if not (repository / CONFIG_NAME).is_file():  # written anew, it would reload what serves
        replace_config(repository, CONFIG)
    return target


def read_encoder_manifest(version: Path) -> EncoderManifest:
    """Returns the manifest of a version that is there whole."""
    return msgspec.json.decode((version / MANIFEST_NAME).read_bytes(), type=EncoderManifest)
