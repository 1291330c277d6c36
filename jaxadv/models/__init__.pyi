"""The public names of `jaxadv.models`, which `__init__.py` reads."""

from .adapters import from_keras as from_keras
from .adapters import from_linen as from_linen
from .adapters import from_nnx as from_nnx
from .adapters import in_bfloat16 as in_bfloat16
from .adapters import normalized as normalized
from .adapters import selected as selected
from .definitions import DEFINITIONS as DEFINITIONS
from .definitions import get_definition as get_definition
from .named import load_model as load_model
from .onnx import from_onnx as from_onnx
from .published import PUBLISHED as PUBLISHED
from .published import load_published as load_published
from .pytorch import from_torch as from_torch
from .scikit_learn import from_sklearn as from_sklearn
from .torch_arrays import from_torch_arrays as from_torch_arrays
from .weights import load_weights as load_weights
from .weights import save_weights as save_weights
