"""Reports of evaluations, studies and sweeps: console tables, data for other programs, HTML pages.

Names are imported on first use, so that reading a sweep's store does not import JAX. They stand in
`__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
