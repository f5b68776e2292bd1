"""Tests of cache/sharing."""
