"""Writing a store: shards grow in a staging directory, which becomes the store when it is complete."""
