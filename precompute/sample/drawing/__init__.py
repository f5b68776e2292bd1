"""Draws the scenes of the embedded sample: people, clothes and backgrounds."""
