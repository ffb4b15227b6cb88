"""The reference: dictionaries and loops over all semantic IDs, one at a time, in float64."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

Sid = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStates:
    """States that are one-hot in the prefix: the head's row then is a table of logits by prefix.

    Satisfies `BeamStates`, and gives the same logits to the reference by name.
    """

    prefixes: Mapping[Sid, int]  # every prefix of length < L, the root included
    taken: dict[int, list[Sid]]

    @classmethod
    def of(cls, sids: Sequence[Sid]) -> "TableStates":
        depth = len(sids[0])
        found = sorted({sid[:length] for sid in sids for length in range(depth)})
        return cls(prefixes={p: n for n, p in enumerate(found)}, taken={0: [()]})

    @property
    def width(self) -> int:
        return len(self.prefixes)

    @property
    def first_BD(self) -> torch.Tensor:
        return self.state(())[None]

    def advance(self, level: int, codes_BW: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
        before = self.taken[level]
        chosen = [
            (*before[parent], code)
            for parent, code in zip(parents_BW[0].tolist(), codes_BW[0].tolist(), strict=True)
        ]
        self.taken[level + 1] = chosen
        return torch.stack([self.state(prefix) for prefix in chosen])[None]

    def state(self, prefix: Sid) -> torch.Tensor:
        one_hot = torch.zeros(self.width)
        one_hot[self.prefixes[prefix]] = 1.0
        return one_hot


def legal_logprobs(
    sids: Sequence[Sid], logits: Mapping[Sid, Sequence[float]]
) -> dict[Sid, list[float]]:
    """Returns the per-code log-probs of every SID: softmax over the codes that may follow its
    prefix.
    """
    table: dict[Sid, list[float]] = {}
    for sid in set(sids):
        table[sid] = []
        for level in range(len(sid)):
            prefix = sid[:level]
            codes = {other[level] for other in sids if other[:level] == prefix}
            total = sum(math.exp(logits[prefix][code]) for code in codes)
            table[sid].append(logits[prefix][sid[level]] - math.log(total))
    return table


def best_by_beams(
    logprobs: Mapping[Sid, Sequence[float]], live: set[Sid], beams: int
) -> list[tuple[Sid, float]]:
    """Returns what a beam search keeps when it looks at every live SID; equal scores by SID."""
    depth = len(next(iter(logprobs)))
    kept: list[Sid] = [()]
    scores: dict[Sid, float] = {(): 0.0}
    for length in range(1, depth + 1):
        scores = {
            sid[:length]: sum(logprobs[sid][:length]) for sid in live if sid[: length - 1] in kept
        }
        kept = sorted(scores, key=lambda prefix: (-round(scores[prefix], 5), prefix))[:beams]
    return [(sid, scores[sid]) for sid in kept]
