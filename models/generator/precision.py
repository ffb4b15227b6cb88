"""Weights in bf16 for decoding: layers and embeddings; the heads stay float32.

Half the bytes and the tensor cores' rate, for 3 digits in the states. Logits, log-probs and scores
are float32 in either case: search keys are made of a float32's bits. A policy's parity with its
trainer (ALGORITHMS 5, 1e-3) is a promise of float32.
"""

import torch

from models.generator.generator import Generator


def in_bf16(generator: Generator) -> Generator:
    """Makes the layers' and embeddings' weights bf16, in place, and returns the generator."""
    for part in (generator.items, generator.encoder, generator.prefix, generator.decoder):
        part.to(torch.bfloat16)
    return generator
