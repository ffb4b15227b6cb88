"""Offline measures of a generator."""
