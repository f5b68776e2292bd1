"""Tests of cache/commands/."""
