"""Requests in, ranked items out: the one code path behind Triton's model and the in-process port.

Legend: B requests of one beam width, W beams, I items of a leaf, L levels, M answered items.
"""

from collections.abc import Sequence

import torch

from models.decoding.beam_search import SearchResult, first_best
from models.generator.batch import check_request, collate, excluded_keys
from models.generator.generator import RankedItems
from models.serving.policy_directory import LoadedPolicy
from schemas.generation import (
    BadGenerationRequest,
    GeneratedItem,
    GenerationRequest,
    GenerationResponse,
)
from schemas.impressions import HistoryFeatures

Answer = GenerationResponse | BadGenerationRequest


class GeneratorEngine:
    """Decodes with one policy version; every answer carries that version's stamps."""

    def __init__(self, policy: LoadedPolicy) -> None:
        """Takes a loaded version; its weights must not change afterwards."""
        self.policy = policy
        with torch.inference_mode():
            self._vectors_ND = policy.generator.item_vectors(policy.index)

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
        for seen in (history, empty):
            self.generate([GenerationRequest(scenario=scenario, history=seen, beams=50)])

    def _check(self, request: GenerationRequest) -> None:
        config = self.policy.generator.config
        scenarios = self.policy.manifest.scenarios
        check_request(request, scenarios=scenarios, content_dim=config.content_dim)

    @torch.inference_mode()
    def _decode(
        self, requests: Sequence[GenerationRequest], beams: int
    ) -> list[GenerationResponse]:
        index, generator = self.policy.index, self.policy.generator
        batch = collate(requests, index, self.policy.manifest.scenarios)
        decoding = generator.begin(batch, index, self._vectors_ND)
        eligible_BN = index.eligible(batch.scenario_B, excluded_keys(requests))
        found = generator.search(decoding, index, eligible_BN, beams)
        ranked = generator.rank_items(decoding, index, found.leaves_BW, self._vectors_ND)
        return [
            self._response(number, found, ranked, eligible_BN[number], beams)
            for number in range(len(requests))
        ]

    def _response(
        self,
        number: int,
        found: SearchResult,
        ranked: RankedItems,
        eligible_N: torch.Tensor,
        beams: int,
    ) -> GenerationResponse:
        """Returns the best `beams` items; equal scores stand in the order of SID and item key."""
        rows_WI = ranked.rows_BWI[number]
        scores_WI = found.scores_BW[number].unsqueeze(1) + ranked.logprobs_BWI[number]
        scores_WI = scores_WI.masked_fill(~eligible_N[rows_WI], -torch.inf)
        place_W = found.leaves_BW[number].argsort()  # by SID, so that equal scores are too
        scores_X = scores_WI[place_W].flatten()
        best_M = first_best(scores_X.unsqueeze(0), beams)[0]
        best_M = best_M[scores_X[best_M].sort(descending=True, stable=True).indices]
        best_M = best_M[torch.isfinite(scores_X[best_M])]
        beam_M = place_W[best_M // rows_WI.shape[1]]
        rows_M = rows_WI[place_W].flatten()[best_M]
        columns = (
            self.policy.index.keys_N[rows_M].tolist(),
            self.policy.index.codes_NL[rows_M].tolist(),
            found.logprobs_BWL[number, beam_M].tolist(),
            scores_X[best_M].tolist(),
        )
        manifest = self.policy.manifest
        return GenerationResponse(
            items=[
                GeneratedItem(item_key=key, sid=sid, logprobs=logprobs, score=score)
                for key, sid, logprobs, score in zip(*columns, strict=True)
            ],
            generation=manifest.generation,
            policy_version=manifest.policy_version,
            index_offset=manifest.index_offset,
        )
