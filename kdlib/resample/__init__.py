"""Moving pictures and heatmaps by affines."""
