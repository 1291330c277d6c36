"""Reliability: what must not break or grow, however long a sweep runs."""
