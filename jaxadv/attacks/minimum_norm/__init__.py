"""White-box attacks that search for the nearest adversarial image."""
