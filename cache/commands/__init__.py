"""The commands of `python -m cache`: one module per command, whose docstring is its --help text, and their parts."""
