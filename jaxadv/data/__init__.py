"""Images to attack: data sets of tensorflow-datasets, and local idx, npz and picture files."""

from jaxadv.data.dataset import DATASETS, load_data
from jaxadv.data.form import Dataset
from jaxadv.data.idx import load_idx
from jaxadv.data.npz import load_npz

__all__ = ["DATASETS", "Dataset", "load_data", "load_idx", "load_npz"]
