"""Tests of the readers of outside files."""
