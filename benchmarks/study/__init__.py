"""Studies: the value of a store for students, and its cost."""
