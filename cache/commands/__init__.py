"""The commands of `python -m cache`, one file each."""
