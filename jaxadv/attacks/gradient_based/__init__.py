"""White-box attacks within an epsilon, along the gradient."""
