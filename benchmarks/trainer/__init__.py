"""Benchmarks of the trainer: its loader, its steps, its memory."""
