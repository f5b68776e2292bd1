"""Tests of train/deploy/."""
