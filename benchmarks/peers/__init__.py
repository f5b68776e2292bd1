"""What others store training records in, and what reads our files beside our own reader, compared with a store."""
