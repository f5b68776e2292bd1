"""Tests of precompute/data/."""
