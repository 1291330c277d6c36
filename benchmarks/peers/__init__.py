"""Peers: other libraries on the same weights and images; a NAME_torch.py is their side."""
