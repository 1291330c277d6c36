"""An attack from its name and its settings, as a command line or a file gives them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxadv.core.attack import Attack
from jaxadv.core.losses import get_loss
from jaxadv.core.norms import get_norm

KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def build_attack(name: str, settings: Mapping[str, Any]) -> Any:
    """The attack of that name (in any case) with these settings.

    For an attack around another one, such as MinimalEpsilon, they are those of the attack inside:
    PGD, or the one that `attack` names (a mapping with `name` and its settings). Raises ValueError
    for an unknown name, norm or loss, and for settings that the attack does not have, of another
    type, or that it needs and are not given.

    >>> from jaxadv.attacks import build_attack
    >>> build_attack("pgd", {"steps": 10}).steps
    10
    """
    from jaxadv.attacks import ATTACKS

    get_loss(settings.get("loss", "margin"))
    get_norm(settings.get("norm", "linf"))
    known = {key.lower(): value for key, value in ATTACKS.items()}
    if name.lower() not in known:
        raise ValueError(f"attack {name!r} is not known: pass one of {', '.join(sorted(ATTACKS))}")
    kind: Any = known[name.lower()]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if "attack" in fields and not isinstance(settings.get("attack"), Attack):
        inner = settings.get("attack", {})
        if not isinstance(inner, Mapping):
            raise ValueError(f"attack={inner!r}: pass a table with a name and settings")
        own = {key: settings[key] for key in settings if key in fields and key != "norm"}
        rest = {key: settings[key] for key in settings if key not in own}
        wrapped = {**rest, **{key: inner[key] for key in inner if key != "name"}}
        return kind(**{**own, "attack": build_attack(inner.get("name", "PGD"), wrapped)})
    unknown = sorted(set(settings) - set(fields))
    if unknown:
        raise ValueError(f"{kind.__name__} does not take {', '.join(unknown)}")
    for key, value in settings.items():
        _check_type(kind.__name__, fields[key], value)
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


def _check_type(attack: str, field: Any, value: Any) -> None:
    """ValueError where a setting is not of its default's type; integers are numbers too, and the
    default of a leaf may be written as an integer and mean a number."""
    default = type(field.default)
    if default not in KINDS or type(value) is default:
        return
    number = default is float or (default is int and not field.metadata.get("static"))
    if not (number and type(value) in (int, float)):
        raise ValueError(f"{attack}: {field.name}={value!r}: pass {KINDS[default]}")
