"""Small stores, sound and damaged ones."""
