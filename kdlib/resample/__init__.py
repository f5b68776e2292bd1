"""Resampling images and heatmaps under affines."""
