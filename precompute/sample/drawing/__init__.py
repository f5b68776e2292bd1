"""Drawing the people of the embedded sample."""
