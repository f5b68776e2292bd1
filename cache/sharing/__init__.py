"""Stores that others look at: finding those below a folder, bucket or repository, and the card that describes them."""
