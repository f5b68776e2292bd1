"""Tests of train/show/."""
