"""The command line: `jaxadv evaluate`, `attack`, `check`, `train` and `attacks`, a file each.

Nothing here imports JAX before a command needs it, so that `jaxadv --help` answers at once.
"""

from jaxadv.cli import attack, check, evaluate, train  # each adds its commands to the app
from jaxadv.cli.app import app
from jaxadv.cli.attack import build_attack
from jaxadv.cli.options import parse_epsilons, parse_number

__all__ = [
    "app",
    "attack",
    "build_attack",
    "check",
    "evaluate",
    "parse_epsilons",
    "parse_number",
    "train",
]
