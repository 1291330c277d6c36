"""The attacks by name: `jaxadv.attacks` enters all that it imports."""

from jaxadv.core.attack import Attack

ATTACKS: dict[str, type[Attack]] = {}
