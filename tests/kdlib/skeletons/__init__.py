"""Tests of skeletons: the value, the built-in ones, TOML files, and the joints of a file by their names."""
