"""How the tests compile, eight simulated devices, checked types, and where the shared data lies.

Most of the time of a test is the compiler's. `JAXADV_OPTIMIZED=1` makes it optimise as for users;
without it, programs are compiled in less time and run more slowly. The workers of one run
share what they have compiled, and a test sees one device unless it is marked `devices`.
"""

import atexit
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import jax
import jaxlib
import pytest
from jaxtyping import install_import_hook

# At level 0, the same image attacked in tables of two lengths may differ in its last bits.
QUICK = (
    "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
KNOWN = (0, 7) <= jaxlib.version.__version_info__[:2] < (0, 11)  # an unknown flag aborts

install_import_hook("jaxadv.core", "beartype.beartype")
install_import_hook("jaxadv.attacks", "beartype.beartype")
jax.config.update("jax_num_cpu_devices", 8)
if KNOWN and not os.environ.get("JAXADV_OPTIMIZED"):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
if "JAXADV_TEST_CACHE" not in os.environ:
    os.environ["JAXADV_TEST_CACHE"] = tempfile.mkdtemp(prefix="jaxadv-tests-")
    atexit.register(shutil.rmtree, os.environ["JAXADV_TEST_CACHE"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["JAXADV_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

COMPILER: Counter[str] = Counter()


def _note(name: str, seconds: float, **_: object) -> None:
    if name.endswith("backend_compile_duration"):
        COMPILER["programs"] += 1
        COMPILER["seconds"] += seconds


jax.monitoring.register_event_duration_secs_listener(_note)


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
    """Mark the examples of `SLOW_EXAMPLES`; a slow test has its mark where it stands.

    JAXADV_ORDER: a word that decides the order of the files, for runs that end by the clock.
    """
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name in SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)
    if word := os.environ.get("JAXADV_ORDER"):
        items.sort(key=lambda item: sha256(f"{word} {item.path}".encode()).digest())


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
def _one_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight devices are eight partitions to compile for and eight threads on few cores."""
    if "devices" not in request.keywords:
        one = jax.local_devices()[:1]
        monkeypatch.setattr(jax, "local_devices", lambda *_, **__: one)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Add up what the workers report of the compiler."""
    COMPILER.update(getattr(node, "workeroutput", {}).get("compiler", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report what this worker has compiled."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compiler"] = dict(COMPILER)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the compiler took."""
    programs, seconds = COMPILER["programs"], COMPILER["seconds"]
    terminalreporter.write_line(
        f"compiler: {programs:.0f} programs, {seconds:.0f} s in all threads"
    )


@pytest.fixture(autouse=True)
def _spare_memory_maps() -> Iterator[None]:
    """Tests compile on their own as well as through the engine."""
    from jaxadv.engine.devices import spare_memory_maps

    yield
    spare_memory_maps()
