"""Eight simulated devices, types checked while the tests run, and where the shared data lies."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jaxadv.core", "beartype.beartype")
install_import_hook("jaxadv.attacks", "beartype.beartype")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published models and real data."""
    root = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no shared data at {root}: set JAXADV_SHARED to its folder")
    return root
