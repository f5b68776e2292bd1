"""Tests of cache/writing/."""
