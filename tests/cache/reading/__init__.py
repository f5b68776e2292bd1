"""Tests of cache/reading/."""
