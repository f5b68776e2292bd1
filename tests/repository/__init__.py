"""Tests of the repository itself: imports, packages, Makefile, documentation."""
