"""Layer 0: what travels. Records, topics, the codec, the error tree; msgspec and nothing else."""
