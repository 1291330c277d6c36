"""PyTorch networks as models: the exported program, and one module for each family of operators."""

from jaxadv.models.pytorch.model import from_torch

__all__ = ["from_torch"]
