"""How good are semantic IDs, by what the item features are made of? On a real catalogue.

Each way is fitted with three seeds of k-means (and of the alignment); a cell is the mean and half
of largest minus smallest. Beside the quality report: the share of users whose validation item lies
in the first code of their last training item, over what two items drawn at random would have.
--cold: a tenth of the items loses its interactions; does behaviour predicted from text help them?
--quick: one seed, without MiniLM. The data folder: --data, else $OXYGENREC_DATA/amazon14_beauty
(default ../shared/data). A million items: `semantic_ids_scale`.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Threads that spin for a shared core make k-means slower; read when faiss and torch are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import numpy.typing as npt

from benchmarks.held_out_behaviour import ColdItems, Steps, cold_items, held_out_steps
from benchmarks.report import finish, parser, show
from models.reasoning.minilm import MINILM_FOLDER
from models.semantic_ids.alignment import AlignmentConfig
from models.semantic_ids.choice_tables import read_behaviour
from models.semantic_ids.cooccurrence import Behaviour
from models.semantic_ids.encoders import BUILTIN, MINILM, TextEncoder, fit_encoder
from models.semantic_ids.fit import SemanticIdsConfig, fit_features
from models.semantic_ids.item_features import ItemFeaturesConfig
from models.semantic_ids.item_table import Items, read_items
from models.semantic_ids.quality import quality_report
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig, fit_codebooks

SEEDS = (0, 1, 2)
CODES = 256
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One composition of the item features."""

    name: str
    encoder: str
    behaviour_weight: float = 0.0
    aligned: bool = False

    def config(self, seed: int) -> SemanticIdsConfig:
        """Returns the fit's configuration."""
        return SemanticIdsConfig(
            features=ItemFeaturesConfig(behaviour_weight=self.behaviour_weight),
            codebooks=ResidualKMeansConfig(codes=CODES, seed=seed),
            alignment=AlignmentConfig(seed=seed) if self.aligned else None,
        )


WAYS = (
    Way(name="text (built-in)", encoder=BUILTIN),
    Way(name="text + co-occurrence", encoder=BUILTIN, behaviour_weight=0.8),
    Way(name="text aligned", encoder=BUILTIN, aligned=True),
    Way(name="text aligned + co-occurrence", encoder=BUILTIN, behaviour_weight=0.8, aligned=True),
    Way(name="MiniLM", encoder=MINILM),
    Way(name="MiniLM + co-occurrence", encoder=MINILM, behaviour_weight=0.8),
    Way(name="MiniLM aligned", encoder=MINILM, aligned=True),
    Way(name="MiniLM aligned + co-occurrence", encoder=MINILM, behaviour_weight=0.8, aligned=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What every way is fitted on and judged by."""

    items: Items
    behaviour: Behaviour
    steps: Steps
    cold: ColdItems


def main() -> None:
    """Prints the tables."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=default_data())
    options.add_argument("--encoder", choices=[BUILTIN, MINILM], help="the rows of one alone")
    options.add_argument("--cold", action="store_true", help="items without interactions instead")
    given = options.parse_args()
    started = time.monotonic()
    seeds = SEEDS[:1] if given.quick else SEEDS
    ways = [way for way in WAYS if way.encoder == BUILTIN or not given.quick]
    if not MINILM_FOLDER.is_dir():
        print("no weights of all-MiniLM-L6-v2 (make setup-minilm): its rows are left out")
        ways = [way for way in ways if way.encoder == BUILTIN]
    ways = [way for way in ways if given.encoder in (None, way.encoder)]
    results = _measure(given.data, ways, seeds, given.cold)
    finish("semantic_ids", results, started=started, path=given.json)


def default_data() -> Path:
    """Returns where the data lies unless it is said."""
    return Path(os.environ.get("OXYGENREC_DATA", "../shared/data")) / "amazon14_beauty"


def _measure(data: Path, ways: Sequence[Way], seeds: Sequence[int], cold: bool) -> dict[str, Any]:
    if not (data / "items.parquet").is_file():
        raise SystemExit(f"{data}: no items.parquet: name a data folder with --data")
    items = read_items(data / "items.parquet")
    behaviour = read_behaviour(data, items.item_ids, window=5)
    if behaviour is None:
        raise SystemExit(f"{data}: no interactions.parquet beside items.parquet")
    found = Catalogue(
        items=items,
        behaviour=behaviour,
        steps=held_out_steps(data, items.item_ids),
        cold=cold_items(behaviour, seed=0),
    )
    encoded, seconds = _encoded(items, sorted({way.encoder for way in ways}))
    if cold:
        new = {way.name: _cold(way, found, encoded) for way in ways if way.behaviour_weight}
        _show_cold(new, found.cold.count)
        return {"encoder_seconds": seconds, "cold": new}
    runs = {way.name: [_run(way, found, encoded, seed) for seed in seeds] for way in ways}
    title = f"{len(items.item_ids):,} items, 3 x {CODES} codes, {len(seeds)} seed(s)"
    for columns in (QUALITY, USE):
        rows = [[way, *(_cell(read, of) for read in columns.values())] for way, of in runs.items()]
        show(title, ["features", *columns], rows)
    return {"encoder_seconds": seconds, "runs": runs}


def _show_cold(found: dict[str, dict[str, float]], count: int) -> None:
    title = f"{count:,} items without interactions: recall@10 of what they are chosen with"
    rows = [[name, *(f"{value:.3f}" for value in of.values())] for name, of in found.items()]
    show(title, ["their behaviour is", *next(iter(found.values()))], rows)


def _encoded(
    items: Items, choices: Sequence[str]
) -> tuple[dict[str, tuple[TextEncoder, Floats]], dict[str, float]]:
    encoded, seconds = {}, {}
    for choice in choices:
        began = time.monotonic()
        _, encoder = fit_encoder(choice, items.texts, seed=0)
        encoded[choice] = (encoder, encoder.encode(items.texts))
        seconds[choice] = round(time.monotonic() - began, 1)
        print(f"{choice}: {encoder.encoder_id}, encoder and texts in {seconds[choice]} s")
    return encoded, seconds


def _run(
    way: Way, found: Catalogue, encoded: dict[str, tuple[TextEncoder, Floats]], seed: int
) -> dict[str, Any]:
    encoder, texts = encoded[way.encoder]
    config = way.config(seed)
    began = time.monotonic()
    _, rows = fit_features(texts, None, found.behaviour, encoder, config, _silent)
    fused = time.monotonic()
    codebooks = fit_codebooks(rows, config.codebooks)
    sids, errors = codebooks.quantise(rows)
    quality = quality_report(
        sids,
        CODES,
        found.items.categories,
        squared_errors=errors,
        squared_lengths=(rows**2).sum(axis=1),
    )
    return {
        "seed": seed,
        "quality": asdict(quality),
        "steps": found.steps.within(sids),
        "feature_seconds": round(fused - began, 1),
        "codebook_seconds": round(time.monotonic() - fused, 1),
    }


def _cold(
    way: Way, found: Catalogue, encoded: dict[str, tuple[TextEncoder, Floats]]
) -> dict[str, float]:
    """Returns recall@10 with the cold items' behaviour predicted, 0, and (leaking) known."""
    encoder, texts = encoded[way.encoder]
    config = way.config(seed=0)
    features, rows = fit_features(texts, None, found.cold.behaviour, encoder, config, _silent)
    _, known = fit_features(texts, None, found.behaviour, encoder, config, _silent)
    blank = rows.copy()
    blank[found.cold.is_cold, features.projected_texts(texts).shape[1] :] = 0
    kinds = {"predicted": rows, "0": blank, "known": known}
    return {kind: found.cold.recall(of) for kind, of in kinds.items()}


def _cell(read: Callable[[dict[str, Any]], float], runs: Sequence[dict[str, Any]]) -> str:
    values = [read(run) for run in runs]
    mean, half = float(np.mean(values)), (max(values) - min(values)) / 2
    places = 3 if abs(mean) < 10 else 0
    return f"{mean:.{places}f}" + (f" ±{half:.{places}f}" if half else "")


def _silent(stage: str, done: int, total: int) -> None:
    """Progress: the tables are enough."""


Reader = Callable[[dict[str, Any]], float]
QUALITY: dict[str, Reader] = {
    "SIDs": lambda run: run["quality"]["distinct_sids"],
    "coverage 2": lambda run: run["quality"]["levels"][1]["coverage"],
    "P90": lambda run: run["quality"]["items_per_sid"][1],
    "P99": lambda run: run["quality"]["items_per_sid"][2],
    "P99.9": lambda run: run["quality"]["items_per_sid"][3],
    "max": lambda run: run["quality"]["items_per_sid"][4],
    "collisions": lambda run: run["quality"]["collision_rate"],
    "purity": lambda run: run["quality"]["purity"][-1],
    "Gini 1": lambda run: run["quality"]["levels"][0]["gini"],
    "perplexity 1": lambda run: run["quality"]["levels"][0]["perplexity"],
    "error": lambda run: run["quality"]["reconstruction_error"],
}
USE: dict[str, Reader] = {
    "steps in 1": lambda run: run["steps"]["within_first"],
    "by chance": lambda run: run["steps"]["by_chance"],
    "lift": lambda run: run["steps"]["within_first"] / run["steps"]["by_chance"],
    "steps in 2": lambda run: run["steps"]["within_second"],
    "features s": lambda run: run["feature_seconds"],
    "codebooks s": lambda run: run["codebook_seconds"],
}


if __name__ == "__main__":
    main()
