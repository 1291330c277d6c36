"""The experiments: functions that map a `Setting` to `Findings`, which are also run by name.

`jaxadv reproduce NAME` runs one, or all whose names begin with NAME and a dot.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxadv.engine.result_store import fingerprint
from jaxadv.models.adapters import linen_of
from jaxadv.studies.findings import Curves, Findings, Gallery, Table, Text, as_data, load, save
from jaxadv.studies.setting import Given, Setting

__all__ = [
    "EXPERIMENTS",
    "NEED_SKLEARN",
    "Curves",
    "Findings",
    "Gallery",
    "Given",
    "Setting",
    "Table",
    "Text",
    "as_data",
    "check_networks",
    "conduct",
    "find",
    "stored",
    "study",
]

EXPERIMENTS: dict[str, str] = {  # name: its module here, and its function
    "szegedy.distortion": "blind_spots:distortions",
    "szegedy.transfer": "transfer:between_networks",
    "szegedy.halves": "halves:between_training_sets",
    "szegedy.noise": "blind_spots:noise",
    "szegedy.units": "units:units",
    "szegedy.layers": "layers:layers",
    "szegedy.pool": "pool:training",
    "szegedy.rarity": "rarity:rarity",
    "szegedy.causes": "causes:causes",
    "classifiers.distance": "classifiers:all_classifiers",
    "classifiers.topics": "topics:topics",
    "fooling.images": "fooling_images:images",
    "fooling.retraining": "fooling_retraining:retraining",
    "universal.rates": "universal_paper:rates",
    "universal.across": "universal_paper:across",
    "universal.images": "universal_paper:images_needed",
    "universal.diversity": "universal_nature:diversity",
    "universal.labels": "universal_nature:labels",
    "universal.geometry": "universal_nature:geometry",
    "universal.controls": "universal_nature:lengths",
    "universal.radius": "universal_radius:over_radii",
    "universal.data_free": "universal_nature:data_free",
    "tampered.defences": "tampered.study:defences",
    "tampered.retraining": "tampered.retraining:retraining",
    "transfer.attacks": "transfer:attacks_between_networks",
    "transfer.spam": "spam:spam_filter",
    "survival": "survival:images_of_digits",
    "streams": "streams:windows_of_digits",
}
OF_TEXTS = ("classifiers.topics", "transfer.spam")  # studies that need no images
NEED_SKLEARN = {"classifiers.distance", "classifiers.topics", "transfer.spam"}
FIXED = {*NEED_SKLEARN, "szegedy.pool"}  # studies of classifiers that no network can replace
TRAIN = {  # studies that train on other images than the training set: of definitions alone
    "szegedy.halves",
    "szegedy.causes",
    "fooling.retraining",
    "tampered.defences",
    "tampered.retraining",
}
LINEN = {"szegedy.units"}  # studies that look into a linen module


def find(name: str) -> list[str]:
    """Return the experiment of a name, or all of a family.

    Args:
        name: Name of an experiment, or of a family: what stands before the dot.

    Returns:
        The names of the experiments.

    Raises:
        ValueError: There is none.
    """
    names = [known for known in EXPERIMENTS if known == name or known.startswith(f"{name}.")]
    if not names:
        raise ValueError(f"{name!r} is not known: pass one of {', '.join(EXPERIMENTS)}")
    return names


def study(name: str) -> Callable[[Setting], Findings]:
    """Return the function of one experiment."""
    module, _, function = EXPERIMENTS[name].partition(":")
    return getattr(importlib.import_module(f"jaxadv.studies.{module}"), function)


def check_networks(names: Sequence[str], setting: Setting) -> None:
    """Raise ValueError if an experiment cannot be run on the networks that the setting gives.

    Args:
        names: Names of the experiments.
        setting: The setting.

    Raises:
        ValueError: An experiment takes no network, no trained one, linen modules alone, or two.
    """

    def refuse(experiments: set[str], why: str) -> None:
        refused = [name for name in names if name in experiments]
        if refused:
            others = ", ".join(name for name in EXPERIMENTS if name not in experiments)
            raise ValueError(f"{', '.join(refused)}: {why}; these do: {others}")

    loaded = [given for given in setting.networks if given.model is not None]
    if setting.networks:
        refuse(FIXED, "takes no other networks than its own")
    if loaded:
        what = f"trains its networks, and cannot take {loaded[0].name}, which is trained already"
        refuse(TRAIN | FIXED, f"{what}: pass the name of a definition, or an experiment that can")
    opaque = [given.name for given in loaded if given.model and linen_of(given.model) is None]
    if opaque:
        what = f"looks into the layers of a linen module, which {opaque[0]} is not"
        refuse(LINEN | TRAIN | FIXED, f"{what}: pass an experiment that takes any model")
    if len(setting.networks) == 1:
        refuse({"transfer.attacks"} | FIXED, "takes two networks or more")


def _place(name: str, setting: Setting) -> tuple[Path, str]:
    """Return where the findings of an experiment are stored, and their fingerprint."""
    digest = fingerprint(
        name,
        setting.seeds,
        setting.examples,
        setting.quick,
        setting.epsilon,
        *((given.name, given.model and given.model.params) for given in setting.networks),
        *((data.images, data.labels) for data in (setting.train, setting.test)),
        setting.texts,
    )
    return setting.folder / "findings" / f"{name}.npz", digest


def stored(name: str, setting: Setting) -> Findings | None:
    """Return the stored findings of an experiment for the same setting, or None."""
    return load(*_place(name, setting))


def conduct(name: str, setting: Setting) -> Findings:
    """Run one experiment, or load its stored findings for the same setting."""
    findings = stored(name, setting)
    if findings is None:
        check_networks([name], setting)
        begin = time.perf_counter()
        result = study(name)(setting)
        findings = Findings(result.name, result.title, result.parts, time.perf_counter() - begin)
        save(findings, *_place(name, setting))
    return findings
