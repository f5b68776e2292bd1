"""Tests of precompute/fetch/."""
