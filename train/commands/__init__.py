"""The commands of `python -m train`, one module per command."""
