"""The command line, a file each: `jaxadv evaluate`, `attack`, `distance`, `certify`, `check`,
`queries`, `safety`, `train`, `reproduce`, `universal`.

Nothing here imports JAX before a command needs it, so that `jaxadv --help` answers at once.
"""

# Each adds its commands to the app.
from jaxadv.cli import (
    attack,
    certify,
    check,
    distance,
    evaluate,
    queries,
    reproduce,
    safety,
    train,
    universal,
)
from jaxadv.cli.app import app
from jaxadv.cli.attack import build_attack
from jaxadv.cli.options import parse_epsilons, parse_number

__all__ = [
    "app",
    "attack",
    "build_attack",
    "certify",
    "check",
    "distance",
    "evaluate",
    "parse_epsilons",
    "parse_number",
    "queries",
    "reproduce",
    "safety",
    "train",
    "universal",
]
