"""Do instructions steer? Held-out simulated shoppers, the served path, three instructions each.

For every shopper whose window has just closed the same request is decoded with the own instruction,
with none (the learnable default) and with another shopper's. Figure: the share of the slate's items
in the category that the shopper looks for. --quick: one seed instead of three.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Threads that spin for a shared core make training several times slower; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from agents.settings import load_settings
from agents.shop.shop import Shop
from benchmarks.report import finish, parser, show
from benchmarks.served_generation import Served, serve
from benchmarks.steering_cases import SteeringCase, cases
from models.evaluation.steering import (
    PairedDifference,
    category_share,
    hit,
    paired_difference,
    shuffled,
)
from models.vectors import pack
from schemas.generation import GenerationRequest, GenerationResponse

UNTIL_MS = 1_783_000_000_000  # 2026-07-02: the past ends here
DAYS = 60
TRAINED_ON = 600  # as in the demo
HELD_OUT = range(10_000, 10_300)
SEEDS = (1, 2, 3)
KINDS = ("own", "none", "shuffled")


def main() -> None:
    """Prints the table; ends with an error when an instruction of one's own does not steer."""
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    runs = [_run(seed) for seed in (SEEDS[:1] if given.quick else SEEDS)]
    results = {"seeds": runs, "steers": all(run["steers"] for run in runs)}
    finish("instruction_following", results, started=started, path=given.json)
    if not results["steers"]:
        raise SystemExit("instructions do not steer: see the rows above")


def _run(seed: int) -> dict[str, Any]:
    settings = load_settings()
    shop = Shop(seed, opened_ms=UNTIL_MS)
    with TemporaryDirectory() as folder:
        began = time.monotonic()
        served = serve(
            shop,
            settings,
            Path(folder),
            seed=seed,
            trained_on=shop.shoppers(range(TRAINED_ON)),
            held_out=shop.shoppers(HELD_OUT),
            until_ms=UNTIL_MS,
            days=DAYS,
        )
        seconds = round(time.monotonic() - began, 1)
    groups = _groups(shop, served, settings.serving.recent)
    measured = {name: _measure(served, part, seed) for name, part in groups.items()}
    rows = [_row(name, found) for name, found in measured.items()]
    columns = ["window", "users", *KINDS, "own - none [95 %]", "own - shuffled [95 %]", "HR@10"]
    title = f"seed {seed}: share of the slate in the wanted category, HR@10 in the same order"
    show(title, columns, rows)
    search = measured["search"]
    return {
        "seed": seed,
        "fit_seconds": seconds,
        "manifest": served.manifest,
        "groups": measured,
        "steers": search["own_minus_none"]["low"] > 0 and search["own_minus_shuffled"]["low"] > 0,
    }


def _groups(shop: Shop, served: Served, recent: int) -> dict[str, list[SteeringCase]]:
    said, silent = (
        cases(
            shop,
            HELD_OUT,
            served.replay,
            until_ms=UNTIL_MS,
            days=DAYS,
            recent=recent,
            with_search=with_search,
        )
        for with_search in (True, False)
    )
    return {
        "search": said,
        "- nothing chosen since": [case for case in said if case.fresh],
        "- words never trained on": [c for c in said if c.query not in served.queries],
        "no search": silent,
    }


def _measure(served: Served, part: Sequence[SteeringCase], seed: int) -> dict[str, Any]:
    """Returns the figures of one group; every kind sees the same histories and catalogue."""
    rng = np.random.default_rng(seed)
    own = [pack(vector) for vector in served.encoder.encode([c.instruction for c in part])]
    told: dict[str, list[bytes | None]] = {
        "own": list(own),
        "none": [None] * len(part),
        "shuffled": [own[other] for other in shuffled(len(part), rng)],
    }
    slates = {kind: _slates(served, part, vectors) for kind, vectors in told.items()}
    shares = {
        kind: [
            category_share(slate, case.wanted, served.category_of)
            for slate, case in zip(slates[kind], part, strict=True)
        ]
        for kind in KINDS
    }
    hits = {
        kind: [hit(slate, case.target_key) for slate, case in zip(slates[kind], part, strict=True)]
        for kind in KINDS
    }
    return {
        "users": len(part),
        "share": {kind: float(np.mean(shares[kind])) for kind in KINDS},
        "hit_rate_at_10": {kind: float(np.mean(hits[kind])) for kind in KINDS},
        "own_minus_none": _plain(paired_difference(shares["own"], shares["none"], rng)),
        "own_minus_shuffled": _plain(paired_difference(shares["own"], shares["shuffled"], rng)),
    }


def _slates(
    served: Served, part: Sequence[SteeringCase], vectors: Sequence[bytes | None]
) -> list[list[int]]:
    requests = [
        GenerationRequest(scenario="home", history=case.history, beams=50, instruction=vector)
        for case, vector in zip(part, vectors, strict=True)
    ]
    slates = []
    for start in range(0, len(requests), 32):
        for answer in served.engine.generate(requests[start : start + 32]):
            if not isinstance(answer, GenerationResponse):
                raise answer
            slates.append([item.item_key for item in answer.items[:10]])
    return slates


def _plain(difference: PairedDifference) -> dict[str, float]:
    return {"mean": difference.mean, "low": difference.low, "high": difference.high}


def _row(name: str, found: dict[str, Any]) -> list[str]:
    row = [name, str(found["users"])]
    row += [f"{found['share'][kind]:.3f}" for kind in KINDS]
    for difference in (found["own_minus_none"], found["own_minus_shuffled"]):
        bounds = f"[{difference['low']:.3f}, {difference['high']:.3f}]"
        row.append(f"{difference['mean']:.3f} {bounds}")
    row.append(" / ".join(f"{found['hit_rate_at_10'][kind]:.3f}" for kind in KINDS))
    return row


if __name__ == "__main__":
    main()
