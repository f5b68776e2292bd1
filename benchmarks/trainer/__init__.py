"""Benchmarks of the trainer: loader, training step, memory, start-up."""
