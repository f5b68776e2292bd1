"""Ways to look at a run: the report, TensorBoard, FiftyOne, and drawings of skeletons and heatmaps."""

FEWEST_LABELS = 6
"""Labelled joints that a person needs to be chosen as an example."""
