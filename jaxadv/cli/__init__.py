"""The command line, a file each: `jaxadv evaluate`, `attack`, `distance`, `certify`, `check`,
`compare`, `export`, `queries`, `report`, `reproduce`, `safety`, `survival`, `sweep`, `train`,
`universal`.

Nothing here imports JAX before a command needs it, so that `jaxadv --help` answers at once.
"""

# Each adds its commands to the app.
from jaxadv.cli import (
    attack,
    certify,
    check,
    compare,
    distance,
    evaluate,
    queries,
    report,
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
    "compare",
    "distance",
    "evaluate",
    "parse_epsilons",
    "queries",
    "report",
    "reproduce",
    "safety",
    "survival",
    "sweep",
    "train",
    "universal",
]
