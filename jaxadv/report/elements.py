"""Common elements of the pages: templates, colours, pictures and version numbers."""

import base64
import dataclasses
import io
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.optional_dependency import extra
from jaxadv.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT, CONTROL, FAINT = "#1d2733", "#c2410c", "#64748b", "#d8dee6"
PROVED = "#15803d"
COLOURS = (ACCENT, "#1d4ed8", "#7e22ce", "#ca8a04", "#0e7490", "#be185d")


@dataclasses.dataclass(frozen=True)
class Page:
    """What a page shows beside the results.

    Attributes:
        title: Title of the page (None: that of its kind).
        class_names: Names of the K classes (None: their numbers).
        settings: Further facts about the run, such as {"seed": 0}.
        total: Number of images of the data set, if the results are of a sample (None: they are of
            all).
        feature_names: Names of the features of inputs that are no images (None: their numbers).
    """

    title: str | None = None
    class_names: Sequence[str] | None = None
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    total: int | None = None
    feature_names: Sequence[str] | None = None

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes, or their numbers."""
        return names_of(self.class_names)


def names_of(given: Sequence[str] | None) -> Sequence[str]:
    """Return the given names of the classes; for None their numbers."""
    return given if given is not None else list(map(str, range(10**4)))


def template(name: str) -> Any:
    """Return one of the page templates beside this file; ImportError names a missing package."""
    with extra("demo", "the HTML report"):
        import jinja2
        import matplotlib.figure  # noqa: F401
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": table.percent,
        "number": table.number_text,
        "interval": table.interval_text,
        "epsilon": table.epsilon_text,
        "described": _described,
        "norm": table.NORMS.__getitem__,
    }
    return environment.get_template(name)


def _described(settings: Mapping[str, Any]) -> str:
    """Return an attack's settings as they would be written in Python."""
    parts = (
        f"{name}={_described(value) if isinstance(value, Mapping) else repr(value)}"
        for name, value in settings.items()
        if name != "name"
    )
    return f"{settings['name'].split('(')[0]}({', '.join(parts)})"


def versions() -> dict[str, str]:
    """Return the versions of the packages and of Python, and the devices."""
    import jax

    import jaxadv

    devices = jax.local_devices()
    names = {"jaxadv": jaxadv.__version__}
    for package in ("jax", "flax", "optax", "numpy"):
        try:
            names[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    names["python"] = platform.python_version()
    names["devices"] = f"{len(devices)} {devices[0].device_kind}"
    return names


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def plain_axes(width: float, height: float) -> "tuple[Figure, Any]":
    """Return a matplotlib figure of that size in inches, and its axes in the style of the pages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(CONTROL)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=11)
    return figure, axes


def svg(figure: "Figure") -> str:
    """Return a matplotlib figure as the data URI of an embedded SVG."""
    return _uri(svg_bytes(figure), "svg+xml")


def svg_bytes(figure: "Figure", transparent: bool = True) -> bytes:
    """Return a matplotlib figure as an SVG: equal figures give equal bytes."""
    import matplotlib

    out = io.BytesIO()
    # Equal reports give equal files: no date, and no random names.
    with matplotlib.rc_context({"svg.hashsalt": "jaxadv", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=transparent)
    return out.getvalue()


def scaled(image: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Return an image of values within `bounds`, scaled to [0, 1]."""
    lower, upper = bounds
    return (image - lower) / (upper - lower)


def picture(image: np.ndarray, bounds: tuple[float, float] = (0.0, 1.0)) -> str:
    """Return an image [H, W, C] of values within `bounds` as the data URI of a PNG.

    One pixel of the image is one pixel of the PNG.
    """
    from matplotlib import image as files

    image = np.clip(scaled(image, bounds), 0, 1)
    if image.shape[-1] != 3:  # grey; of other channels the mean
        image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    out = io.BytesIO()
    files.imsave(out, np.round(255 * image).astype(np.uint8), format="png")
    return _uri(out.getvalue(), "png")


def difference(
    before: np.ndarray,
    after: np.ndarray,
    bounds: tuple[float, float] = (0.0, 1.0),
    times: float | None = None,
) -> str:
    """Return the change of an image within `bounds` as a picture; grey is no change.

    `times` is the factor of enlargement; None scales the largest entry to black or white.
    """
    lower, upper = bounds
    change = (after - before) / (upper - lower)
    if times is None:
        return picture(0.5 + change / (2 * max(np.abs(change).max(), 1e-9)))
    return picture(0.5 + times * change)
