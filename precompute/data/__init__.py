"""Data folders, the selection of instances, and the crops and frames that are cut out of their images."""
