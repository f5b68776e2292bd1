"""Tests of precompute/sample/."""
