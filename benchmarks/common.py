"""What the benchmarks share: trained networks, alternating timing, tables."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs
from rich.console import Console
from rich.table import Table

import jaxadv as ja
from jaxadv.models.train import train

CONSOLE = Console(width=120)


def trained(name: str, epochs: int = 3) -> tuple[ja.Model, np.ndarray, np.ndarray]:
    """A network trained on the embedded digits, and all 5,000 digits (train, then test)."""
    module = ja.models.get_definition(name)()
    data = ja.load_data("mnist5k", "train")
    test = ja.load_data("mnist5k", "test")
    cache = Path(platformdirs.user_cache_dir("jaxadv")) / "benchmarks"
    variables = train(
        module,
        data,
        epochs=epochs,
        batch_size=50,
        learning_rate=1e-3,
        key=jax.random.key(0),
        checkpoint=cache / f"{name}.safetensors",
    )
    images = np.concatenate([data.images, test.images])
    return ja.from_linen(module, variables), images, np.concatenate([data.labels, test.labels])


def alternate(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in every round, after one call of each that is not counted."""
    for call in sides.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def show(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name == header[0] else "right")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    CONSOLE.print(table)
