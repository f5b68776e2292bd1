"""Downloading files, and downloading and unpacking COCO."""
