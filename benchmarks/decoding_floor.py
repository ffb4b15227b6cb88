"""What is the least time that decoding one request can take on an H200, preset by preset?

No GPU is asked: arithmetic and bytes are counted from the modules themselves (on the meta device)
and divided by what the data sheet promises, 989 TFLOP/s in bf16 without sparsity and 4.8 TB/s. The
larger of the two is the floor; kernels, launches and searches come on top. History 200, beam 512,
3 levels, weights read once a step (each of the L decoder steps reads all that its tokens use), the
output head over all V codes. --quick changes nothing.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.report import arguments, finish, show
from models.generator.attention import DecoderLayer
from models.generator.config import PRESETS, GeneratorConfig
from models.generator.experts import Experts
from models.generator.generator import Generator, parameter_count

FLOPS_S = 989e12
BYTES_S = 4.8e12
WEIGHT_BYTES = 2
HISTORY = 200
BEAMS = 512
PREFIX = 3  # scenario, start, instruction
GOAL_MS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one part does: floating-point operations and bytes read."""

    flops: float
    bytes: float

    @property
    def floor_ms(self) -> float:
        """The larger of both times."""
        return 1e3 * max(self.flops / FLOPS_S, self.bytes / BYTES_S)


def main() -> None:
    """Prints parameters, operations, bytes and the floor of every preset."""
    given = arguments(__doc__)
    started = time.monotonic()
    results = {name: figures_of(config) for name, config in PRESETS.items()}
    figures = list(next(iter(results.values())))
    show(
        f"history {HISTORY}, beam {BEAMS}, one request, H200 by data sheet (goal {GOAL_MS:g} ms)",
        ["figure", *results],
        [[figure, *(f"{found[figure]:,.4g}" for found in results.values())] for figure in figures],
    )
    finish("decoding_floor", results, started=started, path=given.json)


def figures_of(config: GeneratorConfig) -> dict[str, Any]:
    """Returns parameters, operations, bytes and the floor of one size."""
    with torch.device("meta"):
        generator = Generator(config)
    encoder, decoder = _encoder(generator), _decoder(generator)
    return {
        "parameters, M": parameter_count(generator) / 1e6,
        "encoder, GFLOP": encoder.flops / 1e9,
        "decoder, GFLOP": decoder.flops / 1e9,
        "weights and states read, MB": (encoder.bytes + decoder.bytes) / 1e6,
        "floor, ms": encoder.floor_ms + decoder.floor_ms,
    }


def _encoder(generator: Generator) -> Work:
    config, tokens = generator.config, HISTORY + 1
    weights = _linear_weights(generator.encoder.layers)
    attention = 4 * tokens**2 * config.width * config.encoder_layers
    return Work(flops=2 * weights * tokens + attention, bytes=weights * WEIGHT_BYTES)


def _decoder(generator: Generator) -> Work:
    """The prefix once, then every beam once a level but the last; the context's keys once."""
    config, context = generator.config, HISTORY + 1
    steps = [PREFIX] + [BEAMS] * (config.levels - 1)
    layers = [layer for layer in generator.decoder.layers if isinstance(layer, DecoderLayer)]
    flops = read = 0.0
    for layer in layers:
        keys = layer.context_keys_values.weight.numel()
        flops += 2 * keys * context
        read += keys * WEIGHT_BYTES
        mixture = layer.forward_layer if isinstance(layer.forward_layer, Experts) else None
        experts = 0 if mixture is None else _numbers(mixture)
        dense = _linear_weights(layer) - keys
        for tokens in steps:
            used, touched = float(dense), float(dense)
            if mixture is not None:
                one = experts / config.experts
                used += one * config.experts_per_token
                touched += one * min(config.experts, tokens * config.experts_per_token)
            flops += 2 * used * tokens + 4 * tokens * config.width * context
            read += touched * WEIGHT_BYTES + 2 * context * config.keys_width * WEIGHT_BYTES
    head = config.codes * config.width
    flops += 2 * head * (1 + BEAMS * (config.levels - 1))
    return Work(flops=flops, bytes=read + head * config.levels * WEIGHT_BYTES)


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _numbers(experts: Experts) -> int:
    return experts.gate_and_up_EDF.numel() + experts.out_EFD.numel()


if __name__ == "__main__":
    main()
