"""PyTorch networks as models: the exported program, and one module for each family of operators."""

from jaxadv.models.torch.model import from_torch

__all__ = ["from_torch"]
