"""What can be proved: randomised smoothing, and exact distances of small models."""
