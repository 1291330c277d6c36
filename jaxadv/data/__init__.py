"""Images to attack: small demonstration sets through tensorflow-datasets, and local idx files."""

from jaxadv.data.dataset import DATASETS, Dataset, load_data
from jaxadv.data.idx import load_idx

__all__ = ["DATASETS", "Dataset", "load_data", "load_idx"]
