"""Requests in, ranked items out: the one code path behind Triton's model and the in-process port.

A compiled decoding, where there is one, takes what it can; the rest is decoded eagerly, where the
policy's weights are (`generator.device`). On a card the host collates, lists exclusions and names
the items; tables of neighbours are asked on the host as well. Triton's model leaves the weights on
the CPU: serving from a card through it is not wired.

Legend: B requests of one beam width, W beams, I items of a leaf, L levels, M answered items, X = W
* I, E excluded keys.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from models.decoding.beam_search import SearchResult, best_places
from models.decoding.item_index import UNKNOWN, ItemIndex
from models.decoding.masks import Masks
from models.devices import moved
from models.generator.batch import Batch, check_request, collate, excluded_keys
from models.generator.generator import RankedItems
from models.serving.compiled_decoding import CompiledDecoding
from models.serving.live_catalogue import Catalogue, LiveCatalogue
from models.serving.policy_directory import LoadedPolicy
from schemas.generation import (
    BadGenerationRequest,
    GeneratedItem,
    GenerationRequest,
    GenerationResponse,
)
from schemas.impressions import HistoryFeatures

Answer = GenerationResponse | BadGenerationRequest


class Chosen(NamedTuple):
    """Every request's best items, falling, wherever it was decoded: rows of the index [B, M], the
    log-probs of their SIDs' codes [B, M, L], scores (-inf: no item) and the table's terms [B, M].
    """

    rows_BM: torch.Tensor
    logprobs_BML: torch.Tensor
    scores_BM: torch.Tensor
    terms_BM: torch.Tensor


class GeneratorEngine:
    """Decodes with one policy version; every answer carries that version's stamps."""

    def __init__(
        self,
        policy: LoadedPolicy,
        count_unknown: Callable[[int], None] = lambda _: None,
        compiled: CompiledDecoding | None = None,
    ) -> None:
        """Takes a loaded version; its weights must not change afterwards, its index is followed.

        `count_unknown` is told how many items of a batch's histories the index does not hold;
        `compiled` holds the version's own weights.
        """
        self.policy = policy
        self.compiled = compiled
        self.catalogue = (
            LiveCatalogue(policy) if compiled is None else LiveCatalogue(policy, compiled.prepare)
        )
        self._count_unknown = count_unknown

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        """Returns an answer a request, in order; a refused one does not disturb its neighbours.

        Requests of one beam width are decoded together: a narrower search is not the head of a
        wider one.
        """
        answers: dict[int, Answer] = {}
        by_beams: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            try:
                self._check(request)
                by_beams.setdefault(request.beams, []).append(number)
            except BadGenerationRequest as error:
                answers[number] = error
        for beams, numbers in by_beams.items():
            decoded = self._decode([requests[number] for number in numbers], beams)
            answers.update(zip(numbers, decoded, strict=True))
        return [answers[number] for number in range(len(requests))]

    def warm_up(self) -> None:
        """Decodes with and without history, so that the first user does not pay for it."""
        key = int(self.policy.index.keys_N[0])
        history = HistoryFeatures(item_keys=[key], action_codes=[1], gap_buckets=[0])
        empty = HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[])
        scenario = self.policy.manifest.scenarios[0]
        beams = 50 if self.compiled is None else self.compiled.beams
        for seen in (history, empty):
            self.generate([GenerationRequest(scenario=scenario, history=seen, beams=beams)])

    def _check(self, request: GenerationRequest) -> None:
        config = self.policy.generator.config
        scenarios = self.policy.manifest.scenarios
        check_request(request, scenarios=scenarios, content_dim=config.content_dim)

    @torch.inference_mode()
    def _decode(
        self, requests: Sequence[GenerationRequest], beams: int
    ) -> list[GenerationResponse]:
        manifest = self.policy.manifest
        with self.catalogue.held() as now:
            batch = collate(requests, now.index, manifest.scenarios)
            read = int((batch.rows_BS != UNKNOWN).sum())
            if unknown := sum(len(one.history.item_keys) for one in requests) - read:
                self._count_unknown(unknown)
            chosen = self._chosen(batch, excluded_keys(requests), now, beams)
            items = _items(chosen, now.index)
        return [
            GenerationResponse(
                items=of_request,
                generation=manifest.generation,
                policy_version=manifest.policy_version,
                index_offset=now.index_offset,
            )
            for of_request in items
        ]

    def _chosen(
        self, batch: Batch, excluded_BE: torch.Tensor, now: Catalogue, beams: int
    ) -> Chosen:
        """Returns the best `beams` items of every request; the batch stands on the host."""
        compiled, mirror = self.compiled, now.mirror
        if compiled is not None and compiled.takes(now.index, beams, excluded_BE.shape[1]):
            decoded = compiled.decode(batch, excluded_BE, now.index, now.vectors_ND)
            if self.policy.neighbours is None:
                scores_BM = decoded.scores_BM
                none_BM = torch.zeros_like(scores_BM)
                return Chosen(decoded.rows_BM, decoded.logprobs_BML, scores_BM, none_BM)
            found, ranked = decoded.found, decoded.ranked
        else:
            there = batch if mirror.index is now.index else moved(batch, mirror.device)
            masks = mirror.masks(batch.scenario_B, excluded_BE)
            found, ranked = self._ranked(now, there, masks, beams)
        return best_items(found, ranked, self._table_terms(now.index, batch, ranked), beams)

    def _ranked(
        self, now: Catalogue, there: Batch, masks: Masks, beams: int
    ) -> tuple[SearchResult, RankedItems]:
        """Returns finished beams and their eligible items; all tensors stand where the weights
        are.
        """
        generator, index = self.policy.generator, now.mirror.index
        decoding = generator.begin(there, index, now.vectors_ND)
        found = generator.search(decoding, index, masks, beams)
        ranked = generator.rank_items(decoding, index, found.leaves_BW, now.vectors_ND)
        return found, ranked.among(masks.eligible(ranked.rows_BWI.flatten(1)))

    def _table_terms(self, index: ItemIndex, batch: Batch, ranked: RankedItems) -> torch.Tensor:
        """Returns what the version's table adds to the items' scores, [B, X]; 0 without one."""
        rows_BX = ranked.rows_BWI.flatten(1)
        if self.policy.neighbours is None:
            return torch.zeros(rows_BX.shape, device=rows_BX.device)
        terms_BX = self.policy.neighbours.terms(index, batch.rows_BS, rows_BX.cpu())
        return terms_BX.to(rows_BX.device)


def best_items(
    found: SearchResult, ranked: RankedItems, terms_BX: torch.Tensor, beams: int
) -> Chosen:
    """Returns every request's best `beams` items; equal scores stand in the order of SID and item
    key.
    """
    scores_BX = (found.scores_BW.unsqueeze(2) + ranked.logprobs_BWI).flatten(1) + terms_BX
    best_BM = best_places(scores_BX, ranked.places_BWI.flatten(1), beams)
    beam_BM = best_BM // ranked.places_BWI.shape[2]
    each_B1 = torch.arange(len(best_BM), device=best_BM.device).unsqueeze(1)
    return Chosen(
        rows_BM=ranked.rows_BWI.flatten(1).gather(1, best_BM),
        logprobs_BML=found.logprobs_BWL[each_B1, beam_BM],
        scores_BM=scores_BX.gather(1, best_BM),
        terms_BM=terms_BX.gather(1, best_BM),
    )


def _items(chosen: Chosen, index: ItemIndex) -> list[list[GeneratedItem]]:
    """Returns the items of every request; `index` stands on the host."""
    rows_BM = chosen.rows_BM.cpu()
    columns = (
        index.keys_N[rows_BM].tolist(),
        index.codes_NL[rows_BM].tolist(),
        chosen.logprobs_BML.tolist(),
        chosen.scores_BM.tolist(),
        chosen.terms_BM.tolist(),
    )
    return [
        [
            GeneratedItem(item_key=key, sid=sid, logprobs=logprobs, score=score, table_term=term)
            for key, sid, logprobs, score, term in zip(*of_request, strict=True)
            if math.isfinite(score)
        ]
        for of_request in zip(*columns, strict=True)
    ]
