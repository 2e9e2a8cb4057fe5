"""Models that were made elsewhere: an ONNX graph that somebody brings is checked, given the inputs
and the decision of the pipeline, and packaged as any other.

Nothing of the graph is parsed, loaded or run but in a confined process (`confined`): what it does
there, it does to that import alone.
"""
