"""The smallest policy there is: a table of logits over a full trie, tilted by the history's length.

It lets the trainer's bookkeeping be tested without a transformer; that is tested beside it.
"""

from collections.abc import Sequence

import torch
from torch import nn

from models.decoding.item_index import UnknownSemanticId
from models.policy.groups import Sid
from schemas.impressions import Impression

CODES = 4


class TabularPolicy(nn.Module):
    """log-probs of 3 codes in 0..3: one row of logits a prefix, plus a row a history length."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.levels = nn.ParameterList(
            torch.randn(CODES**level, CODES, generator=random) for level in range(3)
        )
        self.history = nn.Parameter(torch.randn(8, CODES, generator=random))

    def forward(self, lengths_B: torch.Tensor, sids_BGL: torch.Tensor) -> torch.Tensor:
        prefix_BG = torch.zeros_like(sids_BGL[..., 0])
        tilt_B1V = self.history[lengths_B.clamp(max=7)].unsqueeze(1)
        scored = []
        for level, table in enumerate(self.levels):
            code_BG1 = sids_BGL[..., level : level + 1]
            logprobs_BGV = (table[prefix_BG] + tilt_B1V).log_softmax(dim=-1)
            scored.append(logprobs_BGV.gather(2, code_BG1).squeeze(2))
            prefix_BG = prefix_BG * CODES + code_BG1.squeeze(2)
        return torch.stack(scored, dim=2)


class TabularVersion:
    """A published tabular policy whose item keys spell their SIDs: key 27 = codes 1, 2, 3."""

    def __init__(self, weights: TabularPolicy) -> None:
        self.weights: nn.Module = weights

    def sid_of(self, item_key: int) -> Sid | None:
        return spelt(item_key) if 0 <= item_key < CODES**3 else None

    def logprobs(
        self, weights: nn.Module, impressions: Sequence[Impression], sids_BGL: torch.Tensor
    ) -> torch.Tensor:
        if bool((sids_BGL >= CODES).any()):
            raise UnknownSemanticId(sid=(CODES,))
        lengths = [len(impression.history.item_keys) for impression in impressions]
        scored: torch.Tensor = weights(torch.tensor(lengths), sids_BGL)
        return scored


def spelt(item_key: int) -> Sid:
    """Returns the SID of an item key."""
    return (item_key // 16, item_key // 4 % 4, item_key % 4)
