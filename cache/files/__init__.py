"""Bytes by position: of local files, of archives, and of servers."""
