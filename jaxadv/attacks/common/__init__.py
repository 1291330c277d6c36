"""What several attacks share: steps, walks, searches for a penalty, wrappers."""
