"""A student at work: keypoints of images and videos, as COCO results and as pictures."""
