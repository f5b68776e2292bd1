"""The data set: which persons, from which pictures, as which crops."""
