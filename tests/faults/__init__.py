"""Faults on real servers, and what must be true after each: `python -m tests.faults`."""
