"""The model card of a run: what the student is, its numbers and their limits, its origin, its licences, and its use."""
