"""Tests of cache/files/."""
