"""The encoder-decoder that writes semantic IDs, conditioned on scenario and instruction."""
