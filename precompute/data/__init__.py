"""The data set: which instances, from which images, and the crops that a teacher sees of them."""
