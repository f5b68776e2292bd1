"""Tests of kdlib/students/."""
