"""The decoder: a prefix read once, then codes: all of a known SID at once, or one a step under a
search.

Legend: B requests, Q sequences of one request, Y = B * Q, T new tokens of each, X = Q * T, W beams,
L levels, D width, M context positions, P tokens so far, K = 2 D (keys beside values).
"""

from collections.abc import Sequence

import torch
from torch import nn

from models.generator.attention import DecoderLayer, KeysValues
from models.generator.config import GeneratorConfig
from models.generator.encoder import ItemEmbedding


class Decoder(nn.Module):
    """Layers and the final norm."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm_out = nn.LayerNorm(config.width)

    def begin(
        self,
        prefix_BPD: torch.Tensor,
        memory_BMD: torch.Tensor,
        mask_B11M: torch.Tensor | None,
        items: ItemEmbedding,
    ) -> "Decoding":
        """Reads the prefix and makes the context's keys and values, once a request."""
        contexts = [layer.context(memory_BMD) for layer in self._each_layer()]
        return Decoding(self, items, contexts, mask_B11M, prefix_BPD)

    def forward(
        self,
        x_BXD: torch.Tensor,
        tokens: int,
        contexts: Sequence[KeysValues],
        mask_B11M: torch.Tensor | None,
        past: Sequence[torch.Tensor | None],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns normed states [B, X, D] and each layer's keys and values so far, [Y, P, K]."""
        seen = []
        for layer, context, before in zip(self._each_layer(), contexts, past, strict=True):
            x_BXD, now = layer(x_BXD, tokens, context, mask_B11M, before)
            seen.append(now)
        return self.norm_out(x_BXD), seen

    def _each_layer(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


class Decoding:
    """One batch's decoding under way; satisfies `models.decoding.beam_search.BeamStates`."""

    def __init__(
        self,
        decoder: Decoder,
        items: ItemEmbedding,
        contexts: Sequence[KeysValues],
        mask_B11M: torch.Tensor | None,
        prefix_BPD: torch.Tensor,
    ) -> None:
        self._decoder = decoder
        self._items = items
        self.contexts = contexts
        self._mask_B11M = mask_B11M
        tokens = prefix_BPD.shape[1]
        unread = [None] * len(contexts)
        states_BPD, self._past = decoder(prefix_BPD, tokens, contexts, mask_B11M, unread)
        self._first_BD: torch.Tensor = states_BPD[:, -1].float()  # heads are float32

    @property
    def first_BD(self) -> torch.Tensor:
        """The state that predicts the first code: it has seen context, scenario and instruction."""
        return self._first_BD

    def advance(self, level: int, codes_BW: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
        """Appends codes of `level` to the sequences at `parents_BW`; returns the states behind them
        [B, W, D].
        """
        rows_Y = _rows(parents_BW, sequences=self._past[0].shape[0])
        past = [seen_YPK.index_select(0, rows_Y) for seen_YPK in self._past]
        x_BWD = self._items.code(level, codes_BW)
        states_BWD, self._past = self._decoder(x_BWD, 1, self.contexts, self._mask_B11M, past)
        last_BWD: torch.Tensor = states_BWD.float()
        return last_BWD

    def states_of(self, sids_BQL: torch.Tensor) -> torch.Tensor:
        """Returns the states that predict every code of known SIDs, [B, Q, L, D], in one pass.

        Only before the first `advance`.
        """
        batch, count, levels = sids_BQL.shape
        first_BQ1D: torch.Tensor = self._first_BD[:, None, None].expand(-1, count, 1, -1)
        if levels == 1:
            return first_BQ1D
        given = [self._items.code(level, sids_BQL[..., level]) for level in range(levels - 1)]
        past = [seen_BPK.repeat_interleave(count, dim=0) for seen_BPK in self._past]
        x_BXD = torch.stack(given, dim=2).flatten(1, 2)
        states_BXD, _ = self._decoder(x_BXD, levels - 1, self.contexts, self._mask_B11M, past)
        later_BQXD = states_BXD.float().view(batch, count, levels - 1, -1)
        return torch.cat([first_BQ1D, later_BQXD], dim=2)


def _rows(parents_BW: torch.Tensor, sequences: int) -> torch.Tensor:
    """Returns the parents' places among all `sequences` of the batch, int64 [B * W]."""
    batch = parents_BW.shape[0]
    if batch == 1:
        return parents_BW[0]
    starts_B = torch.arange(batch, device=parents_BW.device) * (sequences // batch)
    return (parents_BW + starts_B.unsqueeze(1)).flatten()
