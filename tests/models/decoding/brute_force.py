"""The reference: dictionaries and loops over all semantic IDs, one at a time, in float64."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from models.decoding.legal import ScoreSemantics

Sid = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStates:
    """States that are one-hot in the prefix: the head's row then is a table of logits by prefix.

    Satisfies `BeamStates`, and gives the same logits to the reference by name.
    """

    prefixes: Mapping[Sid, int]  # every prefix of length < L, the root included
    taken: dict[int, list[list[Sid]]]  # by length and request

    @classmethod
    def of(cls, sids: Sequence[Sid], batch: int = 1) -> "TableStates":
        depth = len(sids[0])
        found = sorted({sid[:length] for sid in sids for length in range(depth)})
        return cls(prefixes={p: n for n, p in enumerate(found)}, taken={0: [[()]] * batch})

    @property
    def width(self) -> int:
        return len(self.prefixes)

    @property
    def first_BD(self) -> torch.Tensor:
        return self.state(()).expand(len(self.taken[0]), -1)

    def advance(self, level: int, codes_BW: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
        self.taken[level + 1] = [
            [(*before[parent], code) for parent, code in zip(parents, codes, strict=True)]
            for before, parents, codes in zip(
                self.taken[level], parents_BW.tolist(), codes_BW.tolist(), strict=True
            )
        ]
        places = [[self.prefixes[prefix] for prefix in row] for row in self.taken[level + 1]]
        return torch.eye(self.width)[torch.tensor(places)]

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


def raw_logprobs(
    sids: Sequence[Sid], logits: Mapping[Sid, Sequence[float]]
) -> dict[Sid, list[float]]:
    """Returns the per-code log-probs of every SID: softmax over all codes."""
    table: dict[Sid, list[float]] = {}
    for sid in set(sids):
        rows = [logits[sid[:level]] for level in range(len(sid))]
        totals = [math.log(sum(math.exp(logit) for logit in row)) for row in rows]
        table[sid] = [row[code] - own for row, code, own in zip(rows, sid, totals, strict=True)]
    return table


LOGPROBS = {ScoreSemantics.LEGAL: legal_logprobs, ScoreSemantics.RAW: raw_logprobs}


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
