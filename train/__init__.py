"""Trains students from a store, evaluates them, exports them, runs them, and shows them. It never loads a teacher."""
