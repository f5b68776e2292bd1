"""Code that the benchmarks share: inputs, timing, report lines and peers."""
