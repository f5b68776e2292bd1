"""What the benchmarks share: their inputs, their timing, their report lines and their peers."""
