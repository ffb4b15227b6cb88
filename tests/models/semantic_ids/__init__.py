"""Tests of models/semantic_ids."""
