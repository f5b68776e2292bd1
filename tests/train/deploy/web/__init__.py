"""Tests of train/deploy/web/."""
