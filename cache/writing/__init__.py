"""Writing a store so that it is complete or not there."""
