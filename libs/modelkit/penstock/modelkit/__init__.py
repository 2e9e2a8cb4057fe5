"""From a pipeline file to a trained ONNX graph."""
