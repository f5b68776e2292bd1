"""Studies: what a store is worth to a student, and what it costs to make."""
