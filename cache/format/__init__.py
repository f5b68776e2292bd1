"""What is on disk, independent of the layout: sizes, columns, manifest, checksums, compression."""
