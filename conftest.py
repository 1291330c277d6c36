"""Which modules have no examples to run, because they import an extra that is not installed."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["jaxadv/models/pytorch/*"]
