"""Tests of train/run/."""
