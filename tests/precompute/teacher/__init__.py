"""Tests of precompute/teacher/."""
