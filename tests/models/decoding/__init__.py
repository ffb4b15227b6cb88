"""Tests of models/decoding."""
