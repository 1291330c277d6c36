"""Decision-based attacks, which see only the predicted class."""
