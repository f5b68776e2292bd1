"""Tests of kdlib/samples/."""
