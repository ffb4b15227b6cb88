"""`oxygenrec semantic-ids`: the three verbs, their help, their exit codes."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agents import cli_semantic_ids
from agents.cli import app
from agents.exit_codes import ExitCode, exit_code_of
from schemas.errors import OxygenRecError

pa = pytest.importorskip("pyarrow")

from pyarrow import parquet  # noqa: E402  pyarrow may be missing

NOUNS = ["umbrella", "raincoat", "sunscreen", "tent", "kettle", "headphones", "notebook", "lamp"]
STYLES = ["red", "compact", "waterproof", "classic", "travel", "premium"]
TITLES = [f"{style} {noun}" for style in STYLES for noun in NOUNS]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), path)


def items(titles: list[str], start: int = 0) -> list[dict[str, Any]]:
    return [
        {"item_id": start + number, "title": title, "category": f"All > {title.split()[-1]}"}
        for number, title in enumerate(titles)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "items.parquet", [*items(TITLES), {"item_id": 0, "title": "the same id again"}])
    chosen = [
        {"user_id": user, "item_id": (user + 8 * step) % len(TITLES), "pos": step}
        for user in range(40)
        for step in range(4)
    ]
    write(folder / "interactions.parquet", chosen)
    return folder


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("out") / "1"
    shown = oxygenrec("fit", "--data", data, "--out", out, "--codes", 6, "--restarts", 1)
    return out, shown


def oxygenrec(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["semantic-ids", *map(str, arguments)])


def refused(result: Result, code: ExitCode, message: str) -> None:
    assert isinstance(result.exception, OxygenRecError), result.output
    assert exit_code_of(result.exception) is code
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("verb", ["fit", "report", "assign"])
def test_every_help_shows_an_example_that_begins_with_the_verb(verb: str) -> None:
    shown = oxygenrec(verb, "--help")
    assert shown.exit_code == ExitCode.OK
    assert f"\n  oxygenrec semantic-ids {verb} " in shown.output


def test_fit_says_what_it_read_left_out_and_made(fitted: tuple[Path, Result]) -> None:
    out, shown = fitted
    assert shown.exit_code == ExitCode.OK, shown.output
    assert "48 items; left out: 1 with an item_id given before" in shown.output
    assert "160 interactions, 0 queries" in shown.output
    assert "level-1 purity by category depth" in shown.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["encoder"]["kind"] == "builtin"
    assert manifest["encoder"]["encoder_id"].startswith("characters-")
    assert manifest["dropped"] == {"with an item_id given before": 1}


def test_report_writes_the_same_figures_as_json_and_png(
    fitted: tuple[Path, Result], tmp_path: Path
) -> None:
    figures, png = tmp_path / "quality.json", tmp_path / "quality.png"
    shown = oxygenrec("report", fitted[0], "--json", figures, "--png", png)
    assert shown.exit_code == ExitCode.OK, shown.output
    quality = json.loads(figures.read_text())["quality"]
    assert quality["items"] == 48
    assert f"{quality['collision_rate']:.2%}" in shown.output
    assert f"{quality['levels'][0]['gini']:.3f}" in shown.output
    assert png.read_bytes().startswith(b"\x89PNG")


def test_assign_gives_new_items_ids_and_leaves_the_others_theirs(
    fitted: tuple[Path, Result], tmp_path: Path
) -> None:
    more = tmp_path / "more.parquet"
    blank = {"item_id": 99, "title": "", "category": ""}
    write(more, [*items(["blue lamp", "red tent"], start=47), blank])
    shown = oxygenrec("assign", fitted[0], "--items", more)
    assert shown.exit_code == ExitCode.OK, shown.output
    assert "1 with a semantic ID already" in shown.output
    assert "1 without a word in title, brand, category or tags" in shown.output
    assert "000002 (1 items)" in shown.output
    again = oxygenrec("assign", fitted[0], "--items", more)
    assert again.output.endswith("nothing to assign\n")
    assert "2 segment(s)" in oxygenrec("report", fitted[0]).output


def test_what_is_missing_and_what_is_misused_have_their_own_exit_codes(
    fitted: tuple[Path, Result], data: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    missing, usage = ExitCode.MISSING, ExitCode.USAGE
    refused(oxygenrec("fit", "--data", nowhere, "--out", nowhere), missing, "found no folder")
    refused(oxygenrec("report", nowhere), missing, "found no manifest.json")
    again = oxygenrec("fit", "--data", data, "--out", fitted[0])
    refused(again, usage, "published IDs never move")
    assert again.output == ""  # before anything was read or fitted
    codes = oxygenrec("fit", "--data", data, "--out", nowhere, "--codes", 0)
    refused(codes, usage, "codes: found 0, wanted 1 to 32767")
    encoder = oxygenrec("fit", "--data", data, "--out", nowhere, "--encoder", tmp_path)
    refused(encoder, missing, "found no config.json")
    write(tmp_path / "items.parquet", [{"item_id": 1, "name": "x"}])
    column = oxygenrec("assign", fitted[0], "--items", tmp_path / "items.parquet")
    refused(column, missing, "column title: found columns item_id, name")
    unwritable = oxygenrec("report", fitted[0], "--json", nowhere / "q.json")
    refused(unwritable, ExitCode.FAILED, "No such file or directory")
    assert not nowhere.exists()


def test_a_torn_folder_ends_with_one_line_that_names_the_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "1"
    oxygenrec("fit", "--data", data, "--out", out, "--codes", 4, "--behaviour-weight", 0)
    (out / "codebooks.safetensors").write_bytes(b"torn")
    command = [sys.executable, "-m", "agents.cli", "semantic-ids", "report", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.FAILED
    assert ended.stderr.startswith("oxygenrec: ")
    assert "codebooks.safetensors: found" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_environment_without_the_extras_is_told_which(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "models.semantic_ids.item_table", None)
    shown = oxygenrec("fit", "--data", data, "--out", tmp_path / "1")
    refused(shown, ExitCode.MISSING, "found no models.semantic_ids.item_table in this environment")


def test_every_named_error_exists() -> None:
    rooms = ("artifact", "residual_kmeans", "encoders", "item_table", "alignment", "item_features")
    modules = [importlib.import_module(f"models.semantic_ids.{room}") for room in rooms]
    modules += [
        importlib.import_module(f"models.reasoning.{m}") for m in ("minilm", "text_encoder")
    ]
    known = {name for module in modules for name in vars(module)}
    assert {*cli_semantic_ids.USAGE, *cli_semantic_ids.MISSING} <= known
