"""Students leave the project: one file that runs without it, checked against PyTorch before it gets its name."""
