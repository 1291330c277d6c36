"""jaxadv: finds out how a classifier can be fooled, and says so in numbers that can be trusted.

>>> import jaxadv as ja
>>> ja.list_attacks()[:3]
['ACG', 'ALMA', 'APGD']
"""

import lazy_loader

__version__ = "0.1.0"

# A name is imported on first use: what only asks for help or a version waits for no compiler.
# The names stand in `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
