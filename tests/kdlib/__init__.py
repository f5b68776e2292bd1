"""Tests of kdlib/."""
