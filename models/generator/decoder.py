"""The decoder: a prefix read once, then codes: all of a known SID at once, or one a step under a
search.

Legend: B requests, Q sequences of one request, W beams, T codes, L levels, D width, M context
positions.
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
        mask_BM: torch.Tensor | None,
        items: ItemEmbedding,
    ) -> "Decoding":
        """Reads the prefix and makes the context's keys and values, once a request."""
        contexts = [layer.context(memory_BMD) for layer in self._each_layer()]
        return Decoding(self, items, contexts, mask_BM, prefix_BPD)

    def forward(
        self,
        x_BQTD: torch.Tensor,
        contexts: Sequence[KeysValues],
        mask_BM: torch.Tensor | None,
        past: Sequence[torch.Tensor | None],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns normed states [B, Q, T, D] and each layer's keys and values so far."""
        seen = []
        for layer, context, before in zip(self._each_layer(), contexts, past, strict=True):
            x_BQTD, now = layer(x_BQTD, context, mask_BM, before)
            seen.append(now)
        return self.norm_out(x_BQTD), seen

    def _each_layer(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


class Decoding:
    """One batch's decoding under way; satisfies `models.decoding.beam_search.BeamStates`."""

    def __init__(
        self,
        decoder: Decoder,
        items: ItemEmbedding,
        contexts: Sequence[KeysValues],
        mask_BM: torch.Tensor | None,
        prefix_BPD: torch.Tensor,
    ) -> None:
        self._decoder = decoder
        self._items = items
        self._contexts = contexts
        self._mask_BM = mask_BM
        unread = [None] * len(contexts)
        states_B1PD, self._past = decoder(prefix_BPD.unsqueeze(1), contexts, mask_BM, unread)
        self._first_BD: torch.Tensor = states_B1PD[:, 0, -1]

    @property
    def first_BD(self) -> torch.Tensor:
        """The state that predicts the first code: it has seen context, scenario and instruction."""
        return self._first_BD

    def advance(self, level: int, codes_BW: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
        """Appends codes of `level` to the sequences at `parents_BW`; returns the states behind them
        [B, W, D].
        """
        past = [_follow(seen_BQPK, parents_BW) for seen_BQPK in self._past]
        x_BW1D = self._items.code(level, codes_BW).unsqueeze(2)
        states_BW1D, self._past = self._decoder(x_BW1D, self._contexts, self._mask_BM, past)
        last_BWD: torch.Tensor = states_BW1D[:, :, 0]
        return last_BWD

    def states_of(self, sids_BQL: torch.Tensor) -> torch.Tensor:
        """Returns the states that predict every code of known SIDs, [B, Q, L, D], in one pass.

        Only before the first `advance`.
        """
        count, levels = sids_BQL.shape[1:]
        first_BQ1D: torch.Tensor = self._first_BD[:, None, None].expand(-1, count, 1, -1)
        if levels == 1:
            return first_BQ1D
        given = [self._items.code(level, sids_BQL[..., level]) for level in range(levels - 1)]
        past = [seen_B1PK.expand(-1, count, -1, -1) for seen_B1PK in self._past]
        states_BQTD, _ = self._decoder(
            torch.stack(given, dim=2), self._contexts, self._mask_BM, past
        )
        return torch.cat([first_BQ1D, states_BQTD], dim=2)


def _follow(seen_BQPK: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
    """Returns the parents' few tokens [B, W, P, K]; right behind the prefix all share one."""
    if seen_BQPK.shape[1] == 1:
        return seen_BQPK.expand(-1, parents_BW.shape[1], -1, -1)
    place = parents_BW[:, :, None, None].expand(-1, -1, *seen_BQPK.shape[2:])
    return seen_BQPK.gather(1, place)
