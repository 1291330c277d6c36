"""Quality: robust accuracies and distances beside published and proved ones."""
