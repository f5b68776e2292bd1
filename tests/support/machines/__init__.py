"""Other machines, imitated in a Linux process: Windows, and the GPU of a Mac."""
