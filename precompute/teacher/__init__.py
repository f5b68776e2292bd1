"""Teachers: HRNet, ONNX files, ensembles of them, and their weights."""
