"""all-MiniLM-L6-v2 as Triton's `text_encoder`: how late is one text, how many a second?

A real server on this machine, one instance on one thread, real gRPC from one client process; texts
of the simulated shop. Searches and instructions come one a request (the edge, the writer), items in
batches of 500 (the indexer), and a search is also asked while such batches run. `make setup-minilm`
brings the weights. --quick: 2 s a row, not 10.
"""

import asyncio
import sys
import time
from collections.abc import Coroutine, Sequence
from itertools import groupby
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import torch

from agents.catalog_indexer import BATCH
from agents.demo.summary import percentile
from agents.demo.training_windows import served_windows
from agents.encoder_publisher import publish_encoder
from agents.ports import TextEncoder
from agents.settings import PathsConfig, Settings
from agents.shop.shop import Shop
from agents.text_encoders import GenerationEncoder, open_encoder
from benchmarks.report import arguments, finish, show
from models.reasoning.item_text import item_text
from models.reasoning.local_reasoner import LocalReasoner
from models.reasoning.minilm import MINILM_FOLDER, MiniLmEncoder, load_minilm
from models.semantic_ids.artifact import EncoderRecord
from models.semantic_ids.encoders import MINILM
from models.serving.encoder_directory import FOLDER
from models.training.instructions import InstructionReplay, item_rows
from streams.connections import TritonConfig
from streams.local.triton import LocalTriton
from streams.triton_encoder import TEXTS_AT_ONCE

GENERATION = 1
SECONDS, QUICK_SECONDS = 10.0, 2.0
UNTIL_MS = 1_783_000_000_000
SHOPPERS, DAYS = 60, 20
SEARCHES_A_SECOND = 20  # at most, while a worker is busy
IN_HAND = 64  # instructions, as a burst of windows leaves them in the writer
DEADLINE_MS = 10_000  # of a search here: every one is answered, and how late is the question
QUERY_MS = Settings().http.query_ms
WARM_UP = 20


def main() -> None:
    """Prints a row a workload, and the same texts in this process on one thread."""
    given = arguments(__doc__)
    if not MINILM_FOLDER.is_dir():
        sys.exit(f"no weights in {MINILM_FOLDER}: make setup-minilm")
    started = time.monotonic()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        rows = asyncio.run(_measure(Path(folder), QUICK_SECONDS if given.quick else SECONDS))
    show("all-MiniLM-L6-v2, one thread", list(rows[0]), [list(row.values()) for row in rows])
    finish("text_encoder", {"rows": rows}, started=started, path=given.json)


async def _measure(home: Path, seconds: float) -> list[dict[str, Any]]:
    local = load_minilm()
    texts = _texts()
    _write_generation(home, local)
    repository = home / "model_repository"
    repository.mkdir()
    rows = [_in_process(local, name, part, seconds) for name, part in texts.items()]
    with LocalTriton(repository, home / "triton") as server:
        settings = Settings(
            paths=PathsConfig(home=str(home)), triton=TritonConfig(grpc_url=server.grpc_url)
        )
        began = time.monotonic()
        await publish_encoder(settings, GENERATION)
        print(f"loaded in {time.monotonic() - began:.1f} s")
        async with open_encoder(settings, GENERATION) as remote:
            await _compare(remote, local, texts["items"][:64])
            rows += [
                await _singly(remote, name, texts[name], under_way, seconds, within_ms)
                for name, within_ms in (("searches", DEADLINE_MS), ("instructions", None))
                for under_way in (1, 8, 64)
            ]
            rows.append(await _in_batches(remote, texts["items"], seconds))
            batches = _in_batches(remote, texts["items"], seconds)
            rows.append(await _beside("batches of items", batches, remote, texts["searches"]))
            writer = _singly(remote, "", texts["instructions"], IN_HAND, seconds)
            rows.append(await _beside("instructions", writer, remote, texts["searches"]))
    return rows


def _texts() -> dict[str, list[str]]:
    """Returns searches, instructions and items of the simulated shop, shuffled."""
    shop = Shop(0)
    items = shop.catalogue()
    past = shop.past(shop.shoppers(range(SHOPPERS)), until_ms=UNTIL_MS, days=DAYS)
    replay = InstructionReplay(
        reasoner=LocalReasoner(),
        windows=served_windows(Settings(), expire=True),
        items=item_rows(items),
        profiles={},
    )
    by_user = groupby(sorted(past, key=lambda action: action.user_id), lambda a: a.user_id)
    made = [made for user, actions in by_user for made in replay.instructions_of(user, [*actions])]
    texts = {
        "searches": sorted({action.query for action in past if action.query}),
        "instructions": sorted({one.reasoning.text for one in made}),
        "items": [item_text(item) for item in items],
    }
    for part in texts.values():
        Random(0).shuffle(part)
    return texts


def _write_generation(home: Path, encoder: MiniLmEncoder) -> None:
    folder = home / "generations" / str(GENERATION)
    encoder.save(folder / FOLDER)
    record = EncoderRecord(kind=MINILM, encoder_id=encoder.encoder_id)
    facts = GenerationEncoder(encoder=record, dim=encoder.dim)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(facts))


async def _compare(remote: TextEncoder, local: MiniLmEncoder, texts: Sequence[str]) -> None:
    worst = float(np.abs(await remote.encode(texts) - local.encode(texts)).max())
    print(f"largest difference to the same texts in process: {worst:.1e}")


def _in_process(
    local: MiniLmEncoder, name: str, texts: Sequence[str], seconds: float
) -> dict[str, Any]:
    local.encode(texts[:WARM_UP])
    began, done = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds / 2:
        local.encode([texts[(done + n) % len(texts)] for n in range(TEXTS_AT_ONCE)])
        done += TEXTS_AT_ONCE
    return _row(f"{name}, in process, {TEXTS_AT_ONCE} at once", done / took, [])


async def _singly(
    remote: TextEncoder,
    name: str,
    texts: Sequence[str],
    under_way: int,
    seconds: float,
    within_ms: int | None = None,
) -> dict[str, Any]:
    """A closed loop: the next text is asked when an answer comes; without a deadline as a worker
    asks, who holds most of them back.
    """
    latencies_ms: list[float] = []
    for text in texts[:WARM_UP]:
        await remote.encode([text])
    began = time.perf_counter()
    until = began + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < until:
            asked = time.perf_counter()
            await remote.encode([texts[number % len(texts)]], deadline_ms=within_ms)
            latencies_ms.append((time.perf_counter() - asked) * 1e3)
            number += under_way

    await asyncio.gather(*map(client, range(under_way)))
    took = time.perf_counter() - began
    return _row(f"{name}, {under_way} under way", len(latencies_ms) / took, latencies_ms)


async def _in_batches(remote: TextEncoder, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    began, done = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        await remote.encode([texts[(done + n) % len(texts)] for n in range(BATCH)])
        done += BATCH
    return _row(f"items, {BATCH} a batch of the indexer", done / took, [])


async def _beside(
    what: str, work: Coroutine[Any, Any, object], remote: TextEncoder, searches: Sequence[str]
) -> dict[str, Any]:
    """Searches as the edge asks them, while a worker has the encoder busy."""
    latencies_ms: list[float] = []
    busy = asyncio.create_task(work)
    while not busy.done():
        asked = time.perf_counter()
        text = searches[len(latencies_ms) % len(searches)]
        await remote.encode([text], deadline_ms=DEADLINE_MS)
        latencies_ms.append((time.perf_counter() - asked) * 1e3)
        await asyncio.sleep(1 / SEARCHES_A_SECOND)
    within = sum(each <= QUERY_MS for each in latencies_ms) / len(latencies_ms)
    row = _row(f"a search beside {what}", 0, latencies_ms)
    return row | {"texts/s": "", f"within {QUERY_MS} ms": f"{within:.0%}"}


def _row(workload: str, rate: float, latencies_ms: Sequence[float]) -> dict[str, Any]:
    return {
        "workload": workload,
        "texts/s": round(rate),
        "p50 ms": _shown(percentile(latencies_ms, 0.5)),
        "p99 ms": _shown(percentile(latencies_ms, 0.99)),
        "texts": len(latencies_ms) or "",
        f"within {QUERY_MS} ms": "",
    }


def _shown(milliseconds: float | None) -> float | str:
    return "" if milliseconds is None else round(milliseconds, 1)


if __name__ == "__main__":
    main()
