"""Servers on the loopback interface that tests and benchmarks read from."""
