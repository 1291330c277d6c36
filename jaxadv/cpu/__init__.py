"""Rewrites of traced programs that make convolutions fast inside loops on CPUs."""
