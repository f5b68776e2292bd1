"""Ways to look at a run: the report, TensorBoard, FiftyOne, and drawings of skeletons and heatmaps."""

MIN_LABELS = 6
"""Smallest number of labelled joints of a person who is shown as an example."""
