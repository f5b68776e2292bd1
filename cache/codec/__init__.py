"""Codecs: heatmaps to compact codes and back, and what that costs."""
