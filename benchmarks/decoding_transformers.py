"""Hugging Face `generate` as one more way: a T5 of the generator's layer sizes, random weights.

transformers is no dependency: where it cannot be imported, there is no row. KV cache on, beam
search, and a trie asked through `prefix_allowed_tokens_fn`. A code of level l is token
2 + l * V + code; 0 is padding and start, 1 would be the end and is never allowed.
"""

import importlib
import importlib.util
from typing import Any

import torch

from benchmarks.decoding_ways import Sid, Task, Trie, Way, children_of, kept_of, trie_of

FIRST_TOKEN = 2


def version() -> str | None:
    """Returns the version that can be imported, if any."""
    if importlib.util.find_spec("transformers") is None:
        return None
    return str(importlib.import_module("transformers").__version__)


class TransformersWay:
    """One request of as many positions as the generator's context has."""

    def __init__(self, task: Task) -> None:
        """Makes the model; the request's encoder input is drawn once."""
        transformers = importlib.import_module("transformers")
        transformers.logging.set_verbosity_error()
        sizes = task.policy.generator.config
        torch.manual_seed(0)
        self._codes = sizes.codes
        self._levels = sizes.levels
        self.beams = task.beams
        self._live = task.live
        config = transformers.T5Config(
            vocab_size=FIRST_TOKEN + sizes.levels * sizes.codes,
            d_model=sizes.width,
            d_kv=sizes.width // sizes.heads,
            num_heads=sizes.heads,
            d_ff=sizes.feed_forward,
            num_layers=sizes.encoder_layers,
            num_decoder_layers=sizes.decoder_layers,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
        generator = task.policy.generator
        device, dtype = generator.device, generator.items.codes.weight.dtype
        model: Any = transformers.T5ForConditionalGeneration(config).eval()
        self._model = model.to(device, dtype)
        positions = 1 + task.batch.rows_BS.shape[1]
        drawn = torch.randint(FIRST_TOKEN, config.vocab_size, (1, positions))
        self._input_ids = drawn.to(device)
        self._trie: Trie = trie_of([self._tokens(sid) for sid in task.live])

    def way(self) -> Way:
        """Returns the timed call."""

        def run() -> list[Sid]:
            found = self._model.generate(
                input_ids=self._input_ids,
                num_beams=self.beams,
                num_return_sequences=self.beams,
                max_new_tokens=self._levels,
                do_sample=False,
                use_cache=True,
                prefix_allowed_tokens_fn=self._allowed,
            )
            return [self._sid(tokens) for tokens in found[:, 1:].tolist()]

        return run

    def kept_by_width(self) -> list[Sid]:
        """Returns what the width leaves over under this model, as `decoding_ways.kept_by_width`
        does for ours.
        """

        def score(prefixes: list[Sid]) -> list[list[float]]:
            level = len(prefixes[0])
            start = torch.zeros(len(prefixes), 1, dtype=torch.int64)
            tokens = torch.tensor([self._tokens(prefix) for prefix in prefixes], dtype=torch.int64)
            tokens = torch.cat([start, tokens.view(len(prefixes), level)], dim=1)
            logits = self._model(
                input_ids=self._input_ids.expand(len(prefixes), -1),
                decoder_input_ids=tokens.to(self._input_ids.device),
            ).logits[:, -1]
            first = FIRST_TOKEN + level * self._codes
            logprobs = logits.double().log_softmax(dim=1)[:, first : first + self._codes]
            rows: list[list[float]] = logprobs.tolist()
            return rows

        return kept_of(trie_of(self._live), self.beams, self._levels, score)

    def _allowed(self, _batch: int, tokens: torch.Tensor) -> list[int]:
        return children_of(self._trie, tokens[1:].tolist())

    def _tokens(self, sid: Sid) -> Sid:
        return tuple(FIRST_TOKEN + level * self._codes + code for level, code in enumerate(sid))

    def _sid(self, tokens: list[int]) -> Sid:
        return tuple(
            token - FIRST_TOKEN - level * self._codes for level, token in enumerate(tokens)
        )
