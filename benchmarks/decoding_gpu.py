"""How long does decoding take on one GPU, against its floor, without masks, and other ways?

Random weights of the presets on drawn catalogues (V 8192, 3 levels). Four questions: (a) whole
requests, `GeneratorEngine.generate`, history 200, beam 512, batch 1, eagerly, as a CUDA graph, and
that with compiled layers (goal: p99 <= 20 ms for 0.1B); (b) the share of the constraints in a
search at batch 8, beam 512, 10 million random SIDs (goal <= 1 %); (c) against transformers
`generate` at beam 50 and 20 (goal: 30 times); (d) whether the SIDs are those of a slow search. A
graph's time is read from CUDA events, everything else by the host's clock, results in hand. Without
a CUDA device it says so and measures nothing. --only: these parts. --quick: fewer rounds, a tenth
of the items, no compiler.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoding_floor import BYTES_S, FLOPS_S, GOAL_MS, figures_of
from benchmarks.decoding_gpu_masks import shares
from benchmarks.decoding_gpu_requests import BEAMS, HISTORY, request_figures
from benchmarks.decoding_gpu_ways import ways_figures
from benchmarks.report import finish, parser, show
from models.generator.config import PRESETS

ITEMS = 200_000
SIDS = 10_000_000
REQUESTED = ("0.1B", "0.4B")
COMPARED = ("tiny", "6 + 6 layers of 512 (T5-small)", "0.1B")
PARTS = ("requests", "masks", "ways", "compiled")
COPIED_BYTES = 2 << 30
PRODUCT = 8_192


def main() -> None:
    """Prints a table a question; --json is written after each."""
    options = parser(__doc__)
    options.add_argument("--only", action="append", choices=PARTS, help="this part alone")
    given = options.parse_args()
    if not torch.cuda.is_available():
        print(f"decoding_gpu: found no CUDA device (torch {torch.__version__}); nothing measured")
        return
    started = time.monotonic()
    parts = given.only or [part for part in PARTS if not (given.quick and part == "compiled")]
    items, sids = (ITEMS // 10, SIDS // 10) if given.quick else (ITEMS, SIDS)
    results: dict[str, Any] = {"torch": torch.__version__, "card": _card()}

    def keep(name: str, found: Any) -> None:
        results[name] = found
        if given.json is not None:
            _written(given.json, results)

    if "requests" in parts:
        for preset in REQUESTED:
            keep(f"requests {preset}", request_figures(preset, items, quick=given.quick))
            _show_requests(preset, items, results)
    if "masks" in parts:
        keep("masks", shares(sids, quick=given.quick))
        _show_masks(results["masks"])
    if "ways" in parts:
        for size in COMPARED:
            keep(f"ways {size}", ways_figures(size, items, quick=given.quick))
            _show_ways(size, items, results[f"ways {size}"])
    if "compiled" in parts:
        name = f"requests {REQUESTED[0]}, compiled"
        keep(name, request_figures(REQUESTED[0], items, compiled=True))
        _show_requests(f"{REQUESTED[0]}, compiled", items, results)
    finish("decoding_gpu", results, started=started, path=given.json)


def _card() -> dict[str, Any]:
    """Returns the card's name and what it reaches: a large copy, a large product."""
    source = torch.randn(COPIED_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    square = torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=torch.bfloat16)
    copy_s = _best_s(lambda: target.copy_(source))
    product_s = _best_s(lambda: square @ square)
    return {
        "name": torch.cuda.get_device_name(),
        "copied, TB/s": 2 * COPIED_BYTES / copy_s / 1e12,
        "bf16 product, TFLOP/s": 2 * PRODUCT**3 / product_s / 1e12,
        "data sheet": [BYTES_S / 1e12, FLOPS_S / 1e12],
    }


def _best_s(call: Any) -> float:
    times = []
    for _ in range(12):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def _show_requests(preset: str, items: int, results: dict[str, Any]) -> None:
    found = results[f"requests {preset}"]
    floor_ms = figures_of(PRESETS[found["preset"]])["floor, ms"]
    rows = [
        [
            way,
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['max_ms']:.2f}",
            f"{row['device_ms']:.2f}" if "device_ms" in row else "-",
            f"{row.get('device_ms', row['p50_ms']) / floor_ms:.0f}",
            row["requests"],
            row["invalid"],
            f"{row['returned']} of {row['wanted']}",
            f"{row['same_as_float32']:.4f}",
        ]
        for way, row in found["ways"].items()
    ]
    title = (
        f"{preset}, {items} items, V 8192, history {HISTORY}, beam {BEAMS}, batch 1: requests to"
        f" ranked items (goal p99 <= {GOAL_MS:g} ms; floor {floor_ms:.2f} ms)"
    )
    columns = ["way", "p50 ms", "p99", "max", "device ms", "times the floor", "requests"]
    columns += ["invalid SIDs", "returned of min(W, live)", "items as in float32"]
    show(title, columns, rows)
    print({name: value for name, value in found.items() if name != "ways"})


def _show_masks(found: dict[str, Any]) -> None:
    rows = [
        [
            f"{name}, {launched}",
            f"{row['ms']:.3f}",
            f"{row['less_ms']:+.4f}",
            f"{row['share']:+.2%}",
        ]
        for launched in ("eager", "graph")
        for name, row in found[launched].items()
    ]
    title = f"share of the constraints: {found['title']} (goal <= 1 %)"
    show(title, ["search", "ms", "masked - this", "share of masked"], rows)
    print(f"a batch's masks on the host and their copy: {found['host_ms']:.3f} ms")


def _show_ways(size: str, items: int, found: dict[str, Any]) -> None:
    rows = [
        [
            name,
            f"{row['ms']:.2f}",
            f"{row['times_graph']:.1f}",
            row["invalid"],
            f"{row['returned']} of {row['wanted']}",
            "-" if row["recall"] is None else f"{row['recall']:.4f}",
        ]
        for name, row in found.items()
    ]
    columns = ["way", "ms", "times the graph", "invalid", "returned of min(W, live)", "recall"]
    show(f"{size}, {items} items, history {HISTORY}: one request, to its SIDs", columns, rows)


def _written(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps({"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
