"""Layer 1: tensors. Semantic IDs, the generator, its search and its training; no sockets."""
