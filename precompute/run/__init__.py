"""One run of the teacher: flags, the job they describe, and its store written, checked or estimated."""
