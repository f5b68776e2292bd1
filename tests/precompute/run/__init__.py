"""Tests of precompute/run/."""
