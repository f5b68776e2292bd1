"""Reading byte ranges of local files, archives and servers, and writing local files durably."""
