"""The one-time teacher pass over a data set: data, teachers, and the run that writes a store."""
