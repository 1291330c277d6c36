"""Eight simulated devices, types checked while the tests run, and where the shared data lies."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jaxadv.core", "beartype.beartype")
install_import_hook("jaxadv.attacks", "beartype.beartype")
jax.config.update("jax_num_cpu_devices", 8)


SLOW_EXAMPLES = {  # docstrings cannot carry a mark: examples of more than about six seconds
    "jaxadv.attacks.minimum_norm.brendel_bethge.BrendelBethge",
    "jaxadv.attacks.non_lp.adversarial_patch.AdversarialPatch",
    "jaxadv.attacks.non_lp.recoloradv.ReColorAdv",
    "jaxadv.attacks.non_lp.wasserstein.Wasserstein",
    "jaxadv.engine.batch.perturb",
    "jaxadv.engine.diagnose.check",
    "jaxadv.protocols.evaluate.evaluate",
    "jaxadv.protocols.minimal_distance.minimal_distance",
    "jaxadv.protocols.query_curves.compare_queries",
    "jaxadv.protocols.streams.streams",
    "jaxadv.protocols.survival.survival",
    "jaxadv.studies.tampered.outcome.confront",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the examples of `SLOW_EXAMPLES`; a slow test has its mark where it stands."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name in SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """JAXADV_UNTIL: the time, in seconds since 1970, from which no further test is begun."""
    if time.time() > float(os.environ.get("JAXADV_UNTIL", "inf")):
        pytest.skip("no time is left (JAXADV_UNTIL)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published models and real data."""
    root = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no shared data at {root}: set JAXADV_SHARED to its folder")
    return root


@pytest.fixture(autouse=True)
def _spare_memory_maps() -> Iterator[None]:
    """Tests compile on their own as well as through the engine."""
    from jaxadv.engine.devices import spare_memory_maps

    yield
    spare_memory_maps()
