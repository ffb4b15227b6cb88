"""The encoders of the generations at the edge: loaded once, missing ones left out."""

from pathlib import Path

import numpy as np

from agents.edge.query_encoders import QueryEncoders
from models.reasoning.text_encoder import CharacterEncoder

TITLES = [
    "red umbrella",
    "blue tent",
    "green garden hose",
    "winter boots",
    "desk lamp",
    "ice maker",
]


async def test_a_generations_encoder_embeds_queries_once_it_is_loaded(tmp_path: Path) -> None:
    fitted = CharacterEncoder.fit(TITLES)
    folder = tmp_path / "generations" / "4"
    folder.mkdir(parents=True)
    fitted.save(folder)
    encoders = QueryEncoders(tmp_path)
    before = encoders.of(4)
    await encoders.load(4)
    loaded = encoders.of(4)
    assert before is None
    assert loaded is not None
    assert loaded.encoder_id == fitted.encoder_id
    np.testing.assert_allclose(loaded.encode(["umbrella"]), fitted.encode(["umbrella"]), atol=1e-3)


async def test_an_edge_without_the_folder_goes_on_without_queries(tmp_path: Path) -> None:
    encoders = QueryEncoders(tmp_path)
    await encoders.load(9)
    assert encoders.of(9) is None
