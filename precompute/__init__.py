"""The teacher's one pass over a data set: data, teachers, and the run that fills a store."""
