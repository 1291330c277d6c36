"""A page for each of some images of a sweep, with every cell's result and the stored pictures."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxadv.core.files import write_atomically
from jaxadv.report import table
from jaxadv.report.elements import difference, picture, scaled, template
from jaxadv.sweep.store import ORIGINALS, SweepStore

SHOWN = 12  # adversarial images on a page
ROWS = 1000  # of its table


def write_images(data: Mapping[str, Any], store: SweepStore, folder: Path) -> Path:
    """Write index.html and a page for each of `data["images"]`; return the path of the index."""
    images = data["images"]
    originals = _originals(images, store)
    chosen = [_nearest(image) for image in images]
    found = _adversarial([row for rows in chosen for row in rows[:SHOWN]], store)
    names = [f"{image['data_hash'][:8]}-{image['id']}.html" for image in images]
    page = template("sweep_image.html.j2")
    listed = []
    for number, image in enumerate(images):
        clean, classes = originals.get(number, (None, ()))
        about = {
            **image,
            "page": names[number],
            "name": _class_name(classes, image["label"]),
            "answers": sorted({_class_name(classes, row["prediction"]) for row in image["rows"]}),
            "picture": None if clean is None else picture(_scaled(clean, image["rows"][0])),
            "broken": len({row["cell"] for row in image["rows"] if row["success"]}),
        }
        listed.append(about)
        rows = chosen[number]
        write_atomically(
            folder / names[number],
            page.render(
                title=f"image {image['id']}",
                image=about,
                norms=table.NORMS,
                shown=[
                    shown
                    for row in rows[:SHOWN]
                    if (shown := _shown(row, found, clean)) is not None
                ],
                left=max(0, len(rows) - SHOWN),
                rows=image["rows"][:ROWS],
                further=max(0, len(image["rows"]) - ROWS),
                targeted=any(row["goal"] != "untargeted" for row in image["rows"]),
                before=names[number - 1] if number else None,
                after=names[number + 1] if number + 1 < len(names) else None,
                class_name=lambda label, known=classes: _class_name(known, label),
            ),
        )
    index = template("sweep_images.html.j2").render(title="all images", images=listed)
    return write_atomically(folder / "index.html", index)


def _class_name(classes: Any, label: int | None) -> str:
    if label is None:
        return "-"
    return str(classes[label]) if 0 <= label < len(classes) else str(label)


def _nearest(image: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nearest success on the image for each model, attack, norm and goal."""
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in image["rows"]:
        key = tuple(row[name] for name in ("model", "norm", "attack", "goal"))
        nearer = key not in best or (row["distance"] or 0) < best[key]["distance"]
        if row["status"] == "SUCCESS" and row["distance"] and nearer:
            best[key] = row
    return list(best.values())


def _originals(
    images: Iterable[Mapping[str, Any]], store: SweepStore
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return by an image's number the clean image and the class names, reading a file at a time."""
    wanted: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for number, image in enumerate(images):
        place = (image["data_hash"], image["place"] // ORIGINALS)
        wanted.setdefault(place, []).append((number, image["id"]))
    found = {}
    for place, numbers in wanted.items():
        kept = store.originals(*place)
        if kept is None:
            continue
        for number, name in numbers:
            rows = np.flatnonzero(kept["ids"] == name)
            if len(rows):
                found[number] = (kept["images"][rows[0]], kept["classes"])
    return found


def _adversarial(
    rows: Iterable[Mapping[str, Any]], store: SweepStore
) -> dict[tuple[str, int], np.ndarray]:
    """Return the adversarial images of the rows, by job and row, reading one job at a time."""
    wanted: dict[str, set[int]] = {}
    for row in rows:
        wanted.setdefault(row["job"], set()).add(row["row"])
    found = {}
    for job, mine in wanted.items():
        kept = store.images(job)
        if kept is None:
            continue
        for place, row in enumerate(kept["rows"].tolist()):
            if row in mine:
                found[job, row] = kept["images"][place].copy()
    return found


def _scaled(image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
    """Return the image scaled to [0, 1]."""
    return image / 255 if image.dtype == np.uint8 else scaled(image, row["bounds"])


def _shown(
    row: Mapping[str, Any], found: Mapping[tuple[str, int], np.ndarray], clean: np.ndarray | None
) -> dict[str, Any] | None:
    """Return an adversarial image and its change, scaled to its largest entry.

    Returns None if the image is not stored.
    """
    image = found.get((row["job"], row["row"]))
    if image is None or image.ndim != 3:
        return None
    image, change = _scaled(image, row), None
    if clean is not None and clean.shape == image.shape:
        change = difference(_scaled(clean, row), image)
    return {**row, "picture": picture(image), "difference": change}
