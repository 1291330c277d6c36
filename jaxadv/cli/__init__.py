"""The command line, one module per command or two.

The commands are `jaxadv attack`, `attacks`, `certify`, `check`, `compare`, `distance`, `evaluate`,
`export`, `prove`, `queries`, `report`, `reproduce`, `safety`, `survival`, `sweep`, `train` and
`universal`.
No module here imports JAX before a command needs it, so `jaxadv --help` is printed at once.
"""

# Importing a module adds its commands to the app.
from jaxadv.cli import (
    attack,
    certify,
    check,
    compare,
    distance,
    evaluate,
    prove,
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
    "prove",
    "queries",
    "report",
    "reproduce",
    "safety",
    "survival",
    "sweep",
    "train",
    "universal",
]
