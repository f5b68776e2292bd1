"""How many labelled joints make a person worth showing, wherever persons are ranked or chosen."""

from typing import Final

FEWEST_LABELS: Final = 6
"""A person with fewer labelled joints says little about a network."""
