"""Speed: what the engine, its parallelism and sweeps cost."""
