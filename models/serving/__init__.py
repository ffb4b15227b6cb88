"""The generator inside Triton's python backend."""
