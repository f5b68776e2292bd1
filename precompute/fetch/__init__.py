"""Downloading and unpacking COCO."""
