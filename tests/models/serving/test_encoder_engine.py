"""The model `text_encoder`: vectors of the encoder, a version whole, one refusal a bad request."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.reasoning.minilm import MiniLmEncoder
from models.serving.encoder_directory import EncoderManifest, write_encoder_version
from models.serving.encoder_engine import MAX_TEXTS, EncoderEngine
from models.serving.version_folder import VersionExists, version_draft
from schemas.encoding import BadEncodingRequest, EncoderMismatch
from streams.triton_tensors import text_arrays
from tests.models.reasoning.tiny_encoder import write_encoder_folder

GENERATION = 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_encoder_folder(tmp_path / "source")


@pytest.fixture
def version(tmp_path: Path, source: Path) -> Path:
    return write_encoder_version(tmp_path / "text_encoder", source, manifest_of(source))


def manifest_of(source: Path) -> EncoderManifest:
    encoder_id = MiniLmEncoder.load(source).encoder_id
    return EncoderManifest(generation=GENERATION, encoder_id=encoder_id)


def request(*texts: str, **instead: list[int]) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(a.copy()) for name, a in text_arrays(texts).items()}
    for name, values in instead.items():
        tensors[name] = torch.tensor([values], dtype=tensors[name].dtype)
    return tensors


def test_the_requests_of_a_batch_get_the_vectors_of_their_own_texts(
    version: Path, source: Path
) -> None:
    asked = [["red umbrella", "tent"], ["", "Regen für zwei"], ["rain for two red tent umbrella"]]
    answers = EncoderEngine(version).answers([request(*texts) for texts in asked])
    encoder = MiniLmEncoder.load(source)
    for texts, answer in zip(asked, answers, strict=True):
        assert isinstance(answer, dict)
        assert answer["VECTORS"].shape == (1, len(texts), encoder.dim)
        np.testing.assert_allclose(answer["VECTORS"][0], encoder.encode(texts), atol=1e-6)
        assert bytes(answer["ENCODER_ID"][0].numpy()) == encoder.encoder_id.encode()


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request("red", TEXT_ENDS=[4]), "TEXT_ENDS"),
        (request("red", TEXT_ENDS=[2, 1, 3]), "TEXT_ENDS"),
        (request("red", TEXT_ENDS=[-1, 3]), "TEXT_ENDS"),
        (request("red", TEXT_ENDS=[]), "TEXT_ENDS"),
        (request("red", TEXT_ENDS=[1] * (MAX_TEXTS + 1)), "TEXT_ENDS"),
        (request("red", TEXT_BYTES=[255, 254, 253]), "TEXT_BYTES"),
        (request("é", TEXT_ENDS=[1, 2]), "TEXT_BYTES"),
        (request("x" * 1_000_001), "TEXT_BYTES"),
    ],
)
def test_a_bad_request_is_refused_by_field_and_its_neighbours_are_answered(
    version: Path, bad: dict[str, torch.Tensor], field: str
) -> None:
    before, refused, after = EncoderEngine(version).answers([request("red"), bad, request("tent")])
    assert isinstance(refused, BadEncodingRequest)
    assert refused.field == field
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    alone = EncoderEngine(version).answers([request("tent")])[0]
    assert isinstance(alone, dict)
    np.testing.assert_allclose(after["VECTORS"], alone["VECTORS"], atol=1e-6)


def test_a_version_appears_whole_and_writing_it_again_changes_nothing(
    version: Path, source: Path
) -> None:
    repository = version.parent
    names = {path.name for path in version.iterdir()}
    assert {"model.py", "__pycache__", "manifest.json", "model.safetensors"} < names
    assert {path.name for path in repository.iterdir()} == {version.name, "config.pbtxt"}
    before = version.stat().st_mtime_ns
    assert write_encoder_version(repository, source, manifest_of(source)) == version
    assert version.stat().st_mtime_ns == before
    (repository / "config.pbtxt").unlink()  # as a crash between the two leaves it
    write_encoder_version(repository, source, manifest_of(source))
    assert (repository / "config.pbtxt").is_file()


def test_another_encoder_under_the_same_number_is_refused(version: Path, tmp_path: Path) -> None:
    other = write_encoder_folder(tmp_path / "other", seed=1)
    with pytest.raises(EncoderMismatch, match="a version never changes"):
        write_encoder_version(version.parent, other, manifest_of(other))


def test_a_version_whose_files_changed_is_not_loaded(version: Path, tmp_path: Path) -> None:
    other = write_encoder_folder(tmp_path / "other", seed=1)
    weights = "model.safetensors"
    (version / weights).write_bytes((other / weights).read_bytes())
    with pytest.raises(EncoderMismatch, match="publish the version again"):
        EncoderEngine(version)


def test_two_writers_of_one_version_leave_the_first_ones(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "7"
    with version_draft(target, "first") as draft:
        (draft / "weights").write_text("1")
    with pytest.raises(VersionExists, match="take another number"), version_draft(target, "second"):
        pass
    assert (target / "model.py").read_text() == "first"
    assert not list(tmp_path.glob(".7-*"))
