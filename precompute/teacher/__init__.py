"""Teachers: PyTorch networks (HRNet), ONNX files, ensembles, and their weights."""
