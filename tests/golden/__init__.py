"""Stores of every released version of the format."""
