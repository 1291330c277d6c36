"""Benchmarks: ratios, both sides alternating in one run, medians, compile time apart."""
