"""The command line, a file each: `jaxadv evaluate`, `attack`, `distance`, `certify`, `check`,
`queries`, `safety`, `survival`, `sweep`, `train`, `reproduce`, `universal`.

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
    survival,
    sweep,
    train,
    universal,
)
from jaxadv.cli.app import app
from jaxadv.cli.options import parse_epsilons

__all__ = [
    "app",
    "attack",
    "certify",
    "check",
    "distance",
    "evaluate",
    "parse_epsilons",
    "queries",
    "reproduce",
    "safety",
    "survival",
    "sweep",
    "train",
    "universal",
]
