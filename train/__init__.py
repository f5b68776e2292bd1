"""Trains students from a store, evaluates, exports, runs and shows them. It never loads a teacher."""
