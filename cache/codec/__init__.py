"""Codecs: heatmaps to compact codes and back, and what the encoding costs."""
