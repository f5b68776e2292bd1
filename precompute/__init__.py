"""Runs a teacher once over a data set and writes its heatmaps to a store."""
