"""Score-based attacks, which see logits and no gradients."""
