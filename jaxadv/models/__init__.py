"""Models: adapters, definitions, weights on disk, published networks and training.

Importing this package imports neither Flax nor optax until a name that needs them is used. The
names stand in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
