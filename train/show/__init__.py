"""Looking at a run: pictures, TensorBoard, FiftyOne, the report."""
