"""Sweeps: grids of models, data, attacks, epsilons and seeds, whose results are kept in a store.

A name is imported on first use, so that reading a store does not import JAX. They stand in
`__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
