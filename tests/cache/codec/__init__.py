"""Tests of cache/codec/."""
