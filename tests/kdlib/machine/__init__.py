"""Tests of kdlib/machine/."""
