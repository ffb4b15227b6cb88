"""Supervised training of the first policy."""
