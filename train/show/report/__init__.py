"""One HTML file that shows a teacher and its students side by side, and why their numbers may be believed.

    python -m train report --store val.zarr --runs runs/baseline runs/distilled --out report.html

Everything on the page is measured while it is written: students from their best checkpoints, the teacher from the
store.
"""
