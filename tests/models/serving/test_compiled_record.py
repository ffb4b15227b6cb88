"""A compiled decoding is run only where it belongs; elsewhere the version decodes eagerly."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from models.serving import compiled_record
from models.serving.compiled_decoding import CompiledRefused, open_compiled
from models.serving.compiled_record import FILE_NAME, CompiledArtifact, CompiledRecord
from models.serving.policy_directory import load_version, write_version
from tests.models.generator.small_policy import small_config, small_policy

POLICY = small_policy()
RECORD = CompiledRecord.here(small_config(), 6)


def written(folder: Path, record: CompiledRecord = RECORD) -> Path:
    """Returns a version with an artefact that is no program."""
    path = folder / "made.pt2"
    path.write_bytes(b"no program")
    artifact = CompiledArtifact(path, record)
    args = (POLICY.manifest, POLICY.generator, POLICY.index)
    return write_version(folder / "generator", *args, compiled=artifact)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("torch_version", "2.0"),
        ("cpu", "x86_64 AVX2 0"),
        ("code", "0"),
        ("generator", "0"),
    ],
)
def test_an_artefact_made_elsewhere_is_refused_by_what_differs(
    tmp_path: Path, field: str, value: str
) -> None:
    folder = written(tmp_path, msgspec.structs.replace(RECORD, **{field: value}))
    with pytest.raises(CompiledRefused, match=f"{field}: found {value}, wanted"):
        open_compiled(folder, load_version(folder))


def test_an_altered_or_missing_artefact_is_refused_before_it_is_run(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / FILE_NAME).write_bytes(b"another program")
    with pytest.raises(CompiledRefused, match="wanted sha256"):
        open_compiled(folder, load_version(folder))
    (folder / FILE_NAME).unlink()
    with pytest.raises(CompiledRefused, match="found no file"):
        open_compiled(folder, load_version(folder))


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    with pytest.raises(CompiledRefused):
        open_compiled(folder, load_version(folder))


def test_a_version_without_an_artefact_has_none(tmp_path: Path) -> None:
    folder = write_version(tmp_path, POLICY.manifest, POLICY.generator, POLICY.index)
    assert open_compiled(folder, load_version(folder)) is None
    assert load_version(folder).manifest.compiled is None


def test_records_differ_where_sizes_or_width_do() -> None:
    other = CompiledRecord.here(replace(small_config(), codes=9), 6)
    assert (
        other.difference(RECORD) == f"generator: found {other.generator}, wanted {RECORD.generator}"
    )
    assert CompiledRecord.here(small_config(), 7).key != RECORD.key
    assert CompiledRecord.here(small_config(), 6).key == RECORD.key


def test_another_processor_is_another_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor: 0\nflags\t\t: fpu avx2\n")
    monkeypatch.setattr(compiled_record, "CPU_INFO", info)
    compiled_record._cpu.cache_clear()
    try:
        assert CompiledRecord.here(small_config(), 6).cpu != RECORD.cpu
    finally:
        compiled_record._cpu.cache_clear()
