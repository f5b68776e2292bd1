"""The machine a network runs on: devices, precision, memory, and the version of this project."""
