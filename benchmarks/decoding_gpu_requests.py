"""Whole requests on a card for `decoding_gpu`: requests in, ranked items out."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.decoding_world import Setting, policy_of, request_of
from models.generator.batch import excluded_keys
from models.generator.precision import in_bf16
from models.serving.captured_engine import CapturedEngine
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy
from models.training.compute import compile_layers
from schemas.generation import GenerationRequest, GenerationResponse

HISTORY = 200
BEAMS = 512
CODES = 8_192
DIFFERENT = 16  # requests, in turn
EAGER, GRAPH = "bf16, eager", "bf16, CUDA graph"
ROUNDS = {EAGER: 300, GRAPH: 1_000}
QUICK_ROUNDS = 20
WARM_UP = 5
BUDGET_S = 25  # a way: slower ones get fewer requests


def request_figures(
    preset: str, items: int, *, quick: bool = False, compiled: bool = False
) -> dict[str, Any]:
    """Returns times and exactness by way; `compiled`: of the graph of compiled layers alone."""
    host = policy_of(Setting(items=items, codes=CODES, history=HISTORY, size=preset))
    requests = [request_of(host.index, BEAMS, seed, HISTORY) for seed in range(DIFFERENT)]
    exact = on_card(host)
    rough = replace(exact, generator=in_bf16(deepcopy(exact.generator)))
    wanted = answered(GeneratorEngine(exact), requests)
    if compiled:
        compile_layers(rough.generator)
    built: dict[str, Callable[[LoadedPolicy], GeneratorEngine]] = {
        EAGER: GeneratorEngine,
        GRAPH: CapturedEngine,
    }
    ways = {}
    for name, build in built.items():
        if compiled and name == EAGER:
            continue
        began = time.monotonic()
        engine = build(rough)
        found = answered(engine, requests)
        first_s = time.monotonic() - began
        rounds = QUICK_ROUNDS if quick else ROUNDS[name]
        ways[name] = {
            **timed_ms(engine, requests, rounds),
            **exactness(host, requests, found, wanted),
            "first_s": first_s,
        }
        if isinstance(engine, CapturedEngine):
            ways[name]["device_ms"] = replayed_ms(engine)
        print(f"  {preset}: {name}: {ways[name]}", flush=True)
    torch.cuda.empty_cache()
    return {"preset": preset, "ways": ways, "memory_GiB": torch.cuda.max_memory_allocated() / 2**30}


def on_card(policy: LoadedPolicy) -> LoadedPolicy:
    """Returns the policy with its weights on the card."""
    return replace(policy, generator=policy.generator.cuda())


def answered(
    engine: GeneratorEngine, requests: Sequence[GenerationRequest]
) -> list[GenerationResponse]:
    """Returns the answers, each request alone."""
    found = [engine.generate([request])[0] for request in requests]
    return [answer for answer in found if isinstance(answer, GenerationResponse)]


def timed_ms(
    engine: GeneratorEngine, requests: Sequence[GenerationRequest], rounds: int
) -> dict[str, float]:
    """Returns what the host's clock says of one request at a time."""
    times = []
    until = time.monotonic() + BUDGET_S
    for number in range(WARM_UP + rounds):
        one = [requests[number % len(requests)]]
        began = time.perf_counter()
        engine.generate(one)
        if number >= WARM_UP:
            times.append((time.perf_counter() - began) * 1e3)
        if time.monotonic() > until:
            break
    p50, p99, largest = np.percentile(times, [50, 99, 100]).tolist()
    return {"p50_ms": p50, "p99_ms": p99, "max_ms": largest, "requests": len(times)}


def replayed_ms(engine: CapturedEngine) -> float:
    """Returns the median time of the engine's newest graph, without the host."""
    graph = list(engine.graphs.values())[-1].graph
    return median(event_ms(graph.replay) for _ in range(50))


def event_ms(call: Callable[[], object]) -> float:
    """Returns the time between two CUDA events around a call."""
    make: Any = torch.cuda.Event  # without annotations
    began, ended = (make(enable_timing=True) for _ in range(2))
    began.record()
    call()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended))


def exactness(
    policy: LoadedPolicy,
    requests: Sequence[GenerationRequest],
    found: Sequence[GenerationResponse],
    wanted: Sequence[GenerationResponse],
) -> dict[str, Any]:
    """Returns what is no live SID, how many items came, and how many are float32's."""
    index = policy.index
    invalid, same = 0, []
    for request, answer, other in zip(requests, found, wanted, strict=True):
        keys = torch.tensor([item.item_key for item in answer.items])
        rows = index.rows_of(keys)
        live = index.in_stock_N[rows] & ~torch.isin(keys, excluded_keys([request])[0])
        own = index.codes_NL[rows].tolist()
        sids = [item.sid for item in answer.items]
        fine = zip(live.tolist(), own, sids, strict=True)
        invalid += sum(not (is_live and list(sid) == code) for is_live, code, sid in fine)
        keys_there = {item.item_key for item in other.items}
        same.append(len(keys_there & set(keys.tolist())) / len(keys_there))
    return {
        "invalid": invalid,
        "returned": sum(len(answer.items) for answer in found),
        "wanted": BEAMS * len(requests),
        "same_as_float32": float(np.mean(same)),
    }
