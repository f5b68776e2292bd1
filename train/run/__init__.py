"""One training run: its settings, parts, loop, steps, folder, and reports."""
