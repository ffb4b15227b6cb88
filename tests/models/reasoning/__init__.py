"""Tests of slow thinking."""
