"""ONNX classifiers as models: the file, the graph, and one module for each family of operators."""

from jaxadv.models.onnx.model import from_onnx

__all__ = ["from_onnx"]
