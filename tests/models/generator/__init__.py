"""Tests of models/generator."""
