"""The foundations: attack interface, goals, models, norms, losses, transforms and results."""
