"""The suite; a package so that tests can share their fixtures."""
