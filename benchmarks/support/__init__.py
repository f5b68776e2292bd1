"""What benchmarks share: what they measure on, how they take turns, what they report, and their peers."""
