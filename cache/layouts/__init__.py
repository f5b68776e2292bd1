"""The two layouts of a store, Zarr and HDF5: where its arrays are in files, and how these files are written."""
