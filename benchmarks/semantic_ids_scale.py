"""Residual k-means at catalogue scale: time and memory for a million items. Synthetic vectors.

The vectors are a mixture of 20,000 Gaussians of length 1, so that there is something to find.
Codebooks are learnt from --points-per-code times V of them; each one is assigned. --quick: 50,000
items, V 512.
"""

import os
import resource
import time
from dataclasses import asdict
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.report import finish, parser, show
from models.semantic_ids.item_features import Floats, unit_rows
from models.semantic_ids.quality import quality_report
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig, fit_codebooks

MIXTURE = 20_000
CHUNK = 65_536


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=1_000_000)
    options.add_argument("--dim", type=int, default=256)
    options.add_argument("--codes", type=int, default=8_192)
    options.add_argument("--iterations", type=int, default=10)
    options.add_argument("--points-per-code", type=int, default=32)
    given = options.parse_args()
    started = time.monotonic()
    items, codes = (50_000, 512) if given.quick else (given.items, given.codes)
    config = ResidualKMeansConfig(
        codes=codes,
        iterations=given.iterations,
        restarts=1,
        points_per_code=given.points_per_code,
    )
    row = _measure(_mixture(items, given.dim), config)
    title = f"{items:,} items, {given.dim} dimensions, 3 x {codes:,} codes"
    show(title, list(row), [[f"{value:,.4g}" for value in row.values()]])
    finish(
        "semantic_ids_scale",
        {"settings": asdict(config), "items": items, "row": row},
        started=started,
        path=given.json,
    )


def _measure(vectors: Floats, config: ResidualKMeansConfig) -> dict[str, Any]:
    began = time.monotonic()
    codebooks = fit_codebooks(vectors, config, lambda done, total: _say("level", done, total))
    fitted = time.monotonic()
    sids, errors = codebooks.quantise(vectors)
    assigned = time.monotonic()
    squares = np.einsum("nd,nd->n", vectors, vectors)
    found = quality_report(
        sids, config.codes, [""] * len(sids), squared_errors=errors, squared_lengths=squares
    )
    return {
        "fit s": fitted - began,
        "assign s": assigned - fitted,
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "SIDs": found.distinct_sids,
        "collisions": found.collision_rate,
        "P99": found.items_per_sid[2],
        "max": found.items_per_sid[4],
        "error": found.reconstruction_error,
    }


def _mixture(items: int, dim: int) -> Floats:
    """Returns [items, dim] float32 rows of length 1, made in chunks."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((MIXTURE, dim), dtype=np.float32)
    vectors = np.empty((items, dim), dtype=np.float32)
    for start in range(0, items, CHUNK):
        of = rng.integers(0, MIXTURE, min(CHUNK, items - start))
        noise = rng.standard_normal((len(of), dim), dtype=np.float32)
        vectors[start : start + CHUNK] = unit_rows(centres[of] + 0.7 * noise)
    return vectors


def _say(what: str, done: int, total: int) -> None:
    print(f"{what} {done} of {total}", flush=True)


if __name__ == "__main__":
    main()
