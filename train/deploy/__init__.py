"""Exports trained students, and predicts keypoints in images and videos."""
