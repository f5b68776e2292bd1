"""What one does with a finished student: export it, and predict keypoints with it."""
