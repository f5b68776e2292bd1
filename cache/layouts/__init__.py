"""The two layouts of a store, Zarr and HDF5: where its arrays lie, and how they are written."""
