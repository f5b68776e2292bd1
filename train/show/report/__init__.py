"""The report: one HTML file that compares a teacher and its students, with checks of its numbers.

    python -m train report --store val.zarr --runs runs/baseline runs/distilled --out report.html

All numbers are measured while the page is written: students from their best checkpoints, the teacher from the store.
"""
