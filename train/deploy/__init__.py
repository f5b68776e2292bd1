"""Using a trained student elsewhere: exported files, and keypoints of images and videos."""
