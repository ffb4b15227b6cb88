"""A mirror holds what its index holds, after every change; padded masks say what masks say.

A copy on the CPU stands for one on a card: but for the kernel that closes nodes there, which `-m
gpu` tests, nothing in it knows the difference (those of the engine are in tests/models/serving).
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from subprocess import CalledProcessError
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoding.index_mirror import IndexMirror, PaddedMasks, closing_kernel
from models.decoding.item_index import ItemIndex
from tests.models.generator.small_policy import CODES, CONTENT_DIM, small_index

CPU = torch.device("cpu")


def assert_same(mirror: IndexMirror) -> None:
    host, index = mirror.host, mirror.index
    for name in ("keys_N", "codes_NL", "content_NC", "in_stock_N", "scenarios_KN"):
        assert torch.equal(getattr(index, name), getattr(host, name)), name
        assert getattr(index, name).data_ptr() != getattr(host, name).data_ptr(), name
    for closed, counts in zip(mirror.closed, host.counts, strict=True):
        assert torch.equal(closed, counts == 0)
    for level, other in zip(index.levels, host.levels, strict=True):
        assert torch.equal(level.codes, other.codes)
        assert torch.equal(level.first_child, other.first_child)
        assert torch.equal(level.labels, other.labels)


def changed(index: ItemIndex, seed: int) -> torch.Tensor:
    """Changes stock and scenarios of some items; returns their keys, one of them unknown."""
    rng = np.random.default_rng(seed)
    keys = index.keys_N[torch.from_numpy(rng.integers(0, len(index.keys_N), 9))]
    keys = torch.cat([keys, torch.tensor([-5])])
    shown = torch.from_numpy(rng.random((len(index.scenarios_KN), len(keys))) > 0.4)
    index.set_eligible(keys, torch.from_numpy(rng.random(len(keys)) > 0.5), shown)
    return keys


def further(index: ItemIndex, seed: int) -> ItemIndex:
    rng = np.random.default_rng(seed)
    return index.grown(
        keys=torch.from_numpy(2**62 + rng.permutation(50)[:7]),
        codes=torch.from_numpy(rng.integers(0, CODES, (7, 3))),
        content=torch.from_numpy(rng.standard_normal((7, CONTENT_DIM))),
        in_stock=torch.from_numpy(rng.random(7) > 0.3),
        scenarios=torch.from_numpy(rng.random((3, 7)) > 0.3),
    )


@given(st.integers(0, 1_000))
def test_a_mirror_follows_stock_and_further_items(seed: int) -> None:
    mirror = IndexMirror.copied(small_index(seed=seed), CPU)
    arrays = [closed.data_ptr() for closed in mirror.closed]
    mirror.follow(changed(mirror.host, seed))
    assert_same(mirror)
    assert [closed.data_ptr() for closed in mirror.closed] == arrays  # in place
    mirror = mirror.grown(further(mirror.host, seed))
    assert_same(mirror)
    mirror.follow(changed(mirror.host, seed + 1))
    assert_same(mirror)


@given(st.integers(0, 1_000), st.integers(1, 3), st.integers(0, 40))
def test_padded_masks_say_what_masks_say(seed: int, requests: int, excluded: int) -> None:
    index = small_index(seed=seed)
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, len(index.keys_N), (requests, excluded)))
    keys_BE = index.keys_N[rows]
    scenario_B = torch.from_numpy(rng.integers(0, 3, requests))
    masks = index.masks(scenario_B, keys_BE)
    mirror = IndexMirror.copied(index, CPU)
    for room in (None, requests * excluded + 5):
        found = mirror.masks(scenario_B, keys_BE, room)
        assert torch.equal(found.empty_roots(), masks.empty_roots())
        for level, counts_KP in enumerate(index.counts):
            all_BX = torch.arange(counts_KP.shape[1]).expand(requests, -1)
            assert torch.equal(found.empty(level, all_BX), masks.empty(level, all_BX))
        rows_BN = torch.arange(len(index.keys_N)).expand(requests, -1)
        assert torch.equal(found.eligible(rows_BN), masks.eligible(rows_BN))


@given(st.integers(0, 1_000), st.integers(1, 3), st.integers(0, 60))
def test_padded_masks_close_what_masks_close(seed: int, requests: int, excluded: int) -> None:
    """Of the children of a few beams; some exclusions have no beam as a parent."""
    check_closed(seed, requests, excluded, CPU)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the kernel, whose programs Triton runs one by one, without a card."""
    pytest.importorskip("triton", reason="comes with a torch for CUDA")
    name = "models.decoding.closing_kernel"
    compiled = sys.modules.pop(name, None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    yield importlib.import_module(name)
    del sys.modules[name]
    if compiled is not None:
        sys.modules[name] = compiled


@pytest.mark.parametrize("at_once", [1_024, 4])
def test_the_kernel_closes_what_masks_close(
    interpreted: ModuleType, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreted, "CHILDREN_AT_ONCE", at_once)

    def by_kernel(
        self: PaddedMasks, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor | None
    ) -> bool:
        interpreted.close_children(
            scores_BWK, nodes_BWK, self.closed[level], self.scenario_B, self.emptied[level]
        )
        return True

    monkeypatch.setattr(PaddedMasks, "_closed_by_kernel", by_kernel)
    for seed in range(6):
        check_closed(seed, 3, 60, CPU)


def test_without_a_compiler_there_is_no_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise CalledProcessError(1, ["cc"])

    module = ModuleType("models.decoding.closing_kernel")
    module.close_children = failing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch, "zeros", partial(_on_the_cpu, torch.zeros))
    assert closing_kernel.__wrapped__() is None
    assert "PyTorch's operators close nodes" in caplog.text


def _on_the_cpu(make: Callable[..., torch.Tensor], *size: int, **given: Any) -> torch.Tensor:
    return make(*size, **given | {"device": CPU})


@pytest.mark.gpu
@given(st.integers(0, 1_000), st.integers(1, 3), st.integers(0, 60))
@settings(deadline=None)  # the first example compiles
def test_a_compiled_kernel_closes_what_masks_close(seed: int, requests: int, excluded: int) -> None:
    triton = pytest.importorskip("triton")
    assert closing_kernel() is not None
    assert isinstance(sys.modules["models.decoding.closing_kernel"]._close, triton.JITFunction)
    check_closed(seed, requests, excluded, torch.device("cuda"))


def check_closed(seed: int, requests: int, excluded: int, device: torch.device) -> None:
    index = small_index(seed=seed)
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, len(index.keys_N), (requests, excluded)))
    scenario_B = torch.from_numpy(rng.integers(0, 3, requests))
    asked = (scenario_B, index.keys_N[rows])
    masks, padded = index.masks(*asked), IndexMirror.copied(index, device).masks(*asked)
    logprobs_BP = -torch.rand(requests, len(index.levels[0].codes))
    closed_BP = padded.close_roots(logprobs_BP.to(device))
    assert torch.equal(closed_BP.cpu(), masks.close_roots(logprobs_BP))
    for level in range(1, index.depth):
        above = len(index.levels[level - 1].codes)
        beams = [rng.permutation(above)[:3] for _ in range(requests)]
        children = index.children(level, torch.from_numpy(np.stack(beams)))
        nodes_BWK = children.nodes_XK
        scores_BWK = (-torch.rand(nodes_BWK.shape)).masked_fill(children.padding_XK, -torch.inf)
        found_BWK = padded.close(level, scores_BWK.clone().to(device), nodes_BWK.to(device))
        assert torch.equal(found_BWK.cpu(), masks.close(level, scores_BWK, nodes_BWK))


def test_on_the_cpu_the_mirror_is_the_index() -> None:
    index = small_index()
    mirror = IndexMirror.of(index, CPU)
    assert mirror.index is index
    grown = further(index, 1)
    assert mirror.grown(grown).index is grown
    mirror.follow(index.keys_N[:3])
