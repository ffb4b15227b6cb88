"""How old is the instruction in force, and how well does it fit what its user does next?

`oxygenrec report freshness` on real data, `trigger = close` against `first`:
- RetailRocket (4.5 months, seconds, no item texts): ages alone, carts and orders are high-value;
- a REES46 sample (2.5 hours, seconds, categories and brands): views count too, few orders there;
- Amazon Beauty (titles, but days alone): windows of a day, 5,000 users.
--quick: RetailRocket and REES46.
"""

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from agents.cli_report import measure, read, show
from agents.settings import Settings
from benchmarks.report import arguments, finish
from schemas.actions import ActionType
from schemas.topics import DAY_MS
from streams.windows import WindowConfig

DATA = Path(os.environ.get("OXYGENREC_DATA", "../shared/data"))
USERS = 5_000
ALL_USERS = 1_000_000


def main() -> None:
    """Prints one table a data set, and what separates the triggers."""
    given = arguments(__doc__)
    started = time.monotonic()
    default = Settings()
    views = replace(default.router, high_value=(ActionType.VIEW, ActionType.CART, ActionType.ORDER))
    daily = WindowConfig(window_ms=DAY_MS, stagger=False)
    with TemporaryDirectory() as folder:
        results = {"retailrocket_mb": _report(DATA / "retailrocket_mb", default, ALL_USERS)}
        rees46 = _rees46(DATA / "rees46_sample", Path(folder) / "rees46_sample")
        seen = replace(default, router=views)
        results["rees46_sample"] = _report(rees46, seen, ALL_USERS)
        results["rees46_sample, new items"] = _report(rees46, seen, ALL_USERS, new_items=True)
    if not given.quick:
        beauty = replace(default, windows=daily)
        results["amazon14_beauty"] = _report(DATA / "amazon14_beauty", beauty, USERS)
    finish("freshness", results, started=started, path=given.json)


def _report(
    folder: Path, settings: Settings, users: int, *, new_items: bool = False
) -> dict[str, Any]:
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: set OXYGENREC_DATA to the folder above it")
    data = read(folder)
    found = measure(data, settings, users=users, new_items=new_items, seed=0)
    what = ", items new to their user" if new_items else ""
    title = f"{folder.name}: {len(data.actions):,} actions{what}"
    show(found, settings, title, days=data.day_resolution)
    return asdict(found)


def _rees46(source: Path, folder: Path) -> Path:
    """Writes the sample as items.parquet and events.parquet; an item's text is category, brand."""
    rows = parquet.read_table(source / "events.parquet").to_pylist()
    items = {
        str(row["product_id"]): {
            "item_id": str(row["product_id"]),
            "title": "",
            "brand": row["brand"] or "",
            "category": (row["category_code"] or "").replace("_", " ").replace(".", " > "),
        }
        for row in rows
    }
    events = [
        {
            "user": str(row["user_id"]),
            "item": str(row["product_id"]),
            "event": row["event_type"],
            "ts": row["event_time"],
        }
        for row in rows
    ]
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist(list(items.values())), folder / "items.parquet")
    parquet.write_table(pa.Table.from_pylist(events), folder / "events.parquet")
    return folder


if __name__ == "__main__":
    main()
