"""One run of the teacher: its flags, its job, and writing, checking or estimating its store."""
