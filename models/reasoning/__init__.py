"""Reasoning instructions: context, the local reasoner, text encoders; numpy only."""
