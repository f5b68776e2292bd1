"""One training run: its settings, state, steps, and folder."""
