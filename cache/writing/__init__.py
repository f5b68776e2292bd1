"""Writing a store: shards are written to a staging directory, from which the complete store is moved to its path."""
