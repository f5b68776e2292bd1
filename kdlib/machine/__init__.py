"""The machine that a network runs on (device, precision, memory, cost) and the version of this project."""
