"""Tests of kdlib/resample/."""
