"""Contrastive alignment of text with behaviour (OxygenREC, section 3.1: multi-source pairs).

A small MLP moves projected texts so that what is chosen together comes together: t -> unit(t +
MLP(t)), InfoNCE in both directions over item-item pairs drawn by their co-occurrence and query-item
pairs, the other pairs of the batch being the negatives. Queries go through the same MLP. Its
weights leave as numpy arrays: `item_features` applies them without torch.

Ours: the residual form and the sampling. Shapes: B pairs, P projected text, H hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, triu
from torch import Tensor, nn
from torch.nn import functional as f

from schemas.errors import OxygenRecError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class NothingToAlign(OxygenRecError):
    """Neither two items that were chosen together nor a query with its item."""

    def __init__(self, *, pairs: int) -> None:
        self.pairs = pairs
        super().__init__(
            f"alignment: found {pairs} item-item and query-item pairs, wanted at least 2:"
            " give interactions or queries, or leave the alignment out"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentConfig:
    """tau 0.1 as in CQ-SID. `query_share` of a batch are query-item pairs where there are any."""

    hidden: int = 512
    steps: int = 600
    batch: int = 512
    learning_rate: float = 1e-3
    temperature: float = 0.1
    query_share: float = 0.25
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Anchors and their items: `left` [n] counts rows of items first, rows of queries after them.

    `weight` [n]: how often such a pair is drawn, in proportion.
    """

    left: Integers
    right: Integers
    weight: npt.NDArray[np.float64]


def train_alignment(
    texts: Floats,
    queries: Floats,
    pairs: Pairs,
    config: AlignmentConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Floats], list[float]]:
    """Returns the MLP's weights (`hidden` [P, H], `out` [H, P] and biases) and the loss of each
    step in nats.

    `texts` [n, P] and `queries` [q, P] are rows of length 1. Equal input and seed give equal
    weights. Raises `NothingToAlign`.
    """
    if len(pairs.left) < 2:
        raise NothingToAlign(pairs=len(pairs.left))
    anchors = torch.from_numpy(np.concatenate([texts, queries]))
    drawn = _Draw(pairs, len(texts), config)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        mlp = _AlignmentMlp(texts.shape[1], config.hidden)
        optimiser = torch.optim.AdamW(mlp.parameters(), lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        for step in range(config.steps):
            left, right = drawn.batch()
            loss = info_nce(mlp(anchors[left]), mlp(anchors[right]), left, right, config)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, config.steps)
    return mlp.weights(), losses


def info_nce(
    left_BP: Tensor, right_BP: Tensor, left_B: Tensor, right_B: Tensor, config: AlignmentConfig
) -> Tensor:
    """Returns the mean of both directions' cross-entropy in nats.

    Row b's positive stands at column b. Another row of the same anchor or item is no negative: it
    is left out of the sum (`left_B`, `right_B` are their numbers).
    """
    scores_BB = left_BP @ right_BP.T / config.temperature
    same_BB = (left_B[:, None] == left_B[None, :]) | (right_B[:, None] == right_B[None, :])
    same_BB.fill_diagonal_(False)
    scores_BB = scores_BB.masked_fill(same_BB, float("-inf"))
    target_B = torch.arange(len(left_B))
    return (f.cross_entropy(scores_BB, target_B) + f.cross_entropy(scores_BB.T, target_B)) / 2


def pairs_of(counts: csr_matrix, queries: csr_matrix | None) -> Pairs:
    """Returns each pair of items with its count once, then each query with its items."""
    upper = triu(counts, k=1).tocoo()
    left, right, weight = [upper.row], [upper.col], [upper.data]
    if queries is not None:
        cells = queries.tocoo()
        left.append(cells.col + counts.shape[0])
        right.append(cells.row)
        weight.append(cells.data)
    return Pairs(
        left=np.concatenate(left).astype(np.int64),
        right=np.concatenate(right).astype(np.int64),
        weight=np.concatenate(weight).astype(np.float64),
    )


class _Draw:
    """Batches of pairs in proportion to their weight, each source with its own share."""

    def __init__(self, pairs: Pairs, items: int, config: AlignmentConfig) -> None:
        asked = np.flatnonzero(pairs.left >= items)
        chosen = np.flatnonzero(pairs.left < items)
        share = config.query_share if len(chosen) else 1.0
        of_queries = round(config.batch * share) if len(asked) else 0
        self._sources = [
            (rows, np.cumsum(pairs.weight[rows]), size)
            for rows, size in ((chosen, config.batch - of_queries), (asked, of_queries))
            if size
        ]
        self._pairs = pairs
        self._rng = np.random.default_rng(config.seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        rows = np.concatenate([
            source[np.searchsorted(sums, self._rng.random(size) * sums[-1], side="right")]
            for source, sums, size in self._sources
        ])  # fmt: skip
        return torch.from_numpy(self._pairs.left[rows]), torch.from_numpy(self._pairs.right[rows])


class _AlignmentMlp(nn.Module):
    """x -> unit(x + MLP(x)); begins as the identity: the text as it is."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BP: Tensor) -> Tensor:
        return f.normalize(x_BP + self.out(f.relu(self.hidden(x_BP))), dim=1)

    def weights(self) -> dict[str, Floats]:
        """Returns the parameters as `item_features` applies them: x @ hidden + hidden_bias, ..."""
        named = {"hidden": self.hidden.weight.T, "hidden_bias": self.hidden.bias}
        named |= {"out": self.out.weight.T, "out_bias": self.out.bias}
        return {name: np.ascontiguousarray(w.detach().numpy()) for name, w in named.items()}
