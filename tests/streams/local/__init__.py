"""Tests of streams/local."""
