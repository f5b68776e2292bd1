"""Reads files of the outside world: annotation files, box files, image folders, images and videos.

Every command and the Python API read such files through these functions, so that all give the same answer for the same
file. Bad input raises `kdlib.errors.InputError`; input that is used with a change is added to `Notices`.
"""
