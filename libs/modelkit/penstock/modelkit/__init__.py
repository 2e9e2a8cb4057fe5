"""Training: a pipeline file becomes a trained ONNX graph."""
