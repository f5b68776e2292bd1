"""One run of the teacher: persons in, a store out."""
