"""How many requests a second does one Triton answer, preset tiny, beam 50, and how late?

A real server on this machine, one instance of the model, real gRPC; clients in another process keep
a number of requests under way and send the next one when an answer comes (closed loop). Each
answer is checked: only live SIDs, as many items as asked for. Random weights: time does not depend
on what was learnt. --quick: 3 s a level, not 12.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from agents.demo.summary import percentile
from benchmarks.decoding_world import SCENARIOS, Setting, policy_of, request_of
from benchmarks.report import finish, parser, show
from models.serving.policy_directory import LoadedPolicy, load_version, write_version
from models.serving.triton_config import write_config
from schemas.generation import GenerationRequest, GenerationResponse
from streams.connections import TritonConfig
from streams.local.triton import LocalTriton
from streams.triton_client import TritonGenerator

CATALOGUE = Setting(items=12_000, codes=256, clusters=300)
BEAMS = 50
UNDER_WAY = (1, 2, 4, 8, 16, 32)
SECONDS, QUICK_SECONDS = 12.0, 3.0
WARM_UP = 50
REQUESTS = 64
PATIENT_MS = 10_000


def main() -> None:
    """Prints requests a second, latencies and faults, a row for each number under way."""
    options = parser(__doc__)
    options.add_argument("--client", nargs=2, metavar=("URL", "FOLDER"), help=argparse.SUPPRESS)
    given = options.parse_args()
    seconds = QUICK_SECONDS if given.quick else SECONDS
    if given.client:
        url, folder = given.client
        print(json.dumps(asyncio.run(_ask(url, Path(folder), seconds))))
        return
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        rows = _measure(Path(folder), quick=given.quick)
    show(
        f"{CATALOGUE.items:,} items, V {CATALOGUE.codes}, beam {BEAMS}, one instance",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )
    finish("serving", {"rows": rows}, started=started, path=given.json)


def _measure(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    repository = folder / "model_repository"
    policy = policy_of(CATALOGUE)
    config = policy.generator.config
    write_version(repository / "generator", policy.manifest, policy.generator, policy.index)
    write_config(
        repository / "generator", [1], content_dim=config.content_dim, levels=config.levels
    )
    snapshot_only = {"OXYGENREC_SERVING__FOLLOW_CATALOG": "false"}
    server = LocalTriton(
        repository, folder / "triton", load=["generator"], environment=snapshot_only
    )
    with server:
        version = repository / "generator" / "1"
        command = [sys.executable, "-m", "benchmarks.serving", "--client", server.grpc_url]
        command += [str(version), *(["--quick"] if quick else [])]
        asked = subprocess.run(command, check=True, capture_output=True, text=True)
    rows: list[dict[str, Any]] = json.loads(asked.stdout)
    return rows


async def _ask(url: str, version: Path, seconds: float) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    policy = load_version(version)
    requests = [request_of(policy.index, BEAMS, seed) for seed in range(REQUESTS)]
    async with TritonGenerator(TritonConfig(grpc_url=url), SCENARIOS) as generator:
        await generator.prepare(1)
        for number in range(WARM_UP):
            await generator.generate(requests[number % REQUESTS], version=1, deadline_ms=PATIENT_MS)
        return [await _level(generator, requests, policy, count, seconds) for count in UNDER_WAY]


async def _level(
    generator: TritonGenerator,
    requests: list[GenerationRequest],
    policy: LoadedPolicy,
    under_way: int,
    seconds: float,
) -> dict[str, Any]:
    latencies: list[float] = []
    answers: list[tuple[GenerationRequest, GenerationResponse]] = []
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < until:
            request = requests[number % REQUESTS]
            began = time.perf_counter()
            answer = await generator.generate(request, version=1, deadline_ms=PATIENT_MS)
            latencies.append((time.perf_counter() - began) * 1e3)
            answers.append((request, answer))
            number += under_way

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(under_way)))
    took = time.perf_counter() - began
    return {
        "under way": under_way,
        "requests/s": round(len(latencies) / took, 1),
        "p50 ms": round(percentile(latencies, 0.5) or 0.0, 1),
        "p99 ms": round(percentile(latencies, 0.99) or 0.0, 1),
        "answers": len(answers),
        "invalid SIDs": sum(_invalid(policy, *one) for one in answers),
        "fewer items than beams": sum(len(one.items) < BEAMS for _, one in answers),
    }


def _invalid(policy: LoadedPolicy, request: GenerationRequest, answer: GenerationResponse) -> int:
    """Returns how many items are not of this index, excluded, or under another SID."""
    return sum(
        item.item_key in request.exclude_keys
        or policy.index.sid_of(item.item_key) != tuple(item.sid)
        for item in answer.items
    )


if __name__ == "__main__":
    main()
