"""Ways to look at a run: the report, TensorBoard, FiftyOne, and drawings of skeletons and heatmaps."""
