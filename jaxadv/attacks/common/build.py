"""Construction of an attack from its name and settings, for the command line and sweep files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxadv.attacks.common.registry import ATTACKS
from jaxadv.core.attack import Attack
from jaxadv.core.losses import get_loss
from jaxadv.core.norms import get_norm

KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def build_attack(name: str, settings: Mapping[str, Any]) -> Attack:
    """Build the attack of this name with these settings.

    The settings of a wrapper attack, such as MinimalEpsilon, that are not its own fields go to the
    wrapped attack: PGD, or the one that the setting `attack` names (a mapping with `name` and its
    settings).

    Args:
        name: Name of the attack, in any case.
        settings: Values of the fields of the attack.

    Returns:
        The attack.

    Raises:
        ValueError: If the name, the norm or the loss is unknown, a setting is not a field of the
            attack, has another type than the default of the field, or is required and missing.

    >>> from jaxadv.attacks import build_attack
    >>> build_attack("pgd", {"steps": 10}).steps
    10
    """
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


def _check_type(attack: str, field: dataclasses.Field, value: object) -> None:
    """Raise ValueError if a setting does not have the type of its default.

    Integers are accepted for numbers; the default of a pytree leaf may be written as an integer and
    stand for a number.
    """
    default = type(field.default)
    if default not in KINDS or type(value) is default:
        return
    number = default is float or (default is int and not field.metadata.get("static"))
    if not (number and type(value) in (int, float)):
        raise ValueError(f"{attack}: {field.name}={value!r}: pass {KINDS[default]}")
