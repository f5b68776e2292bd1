"""Pose numerics shared by the teacher's run and the student's trainer: numpy, numba and torch, no files of its own.

Legend used in every module: B batch, K joints, H rows, W columns. Points are (x, y); their name says of what:
image, frame, input or heatmap pixels. Sizes are (width, height), array shapes are (rows, columns).
"""
