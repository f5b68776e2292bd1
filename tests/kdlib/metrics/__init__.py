"""Tests of kdlib/metrics/."""
