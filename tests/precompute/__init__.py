"""Tests of precompute/."""
