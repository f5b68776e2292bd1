"""Small stores for tests: intact, damaged and forged ones."""
