"""Benchmarks: Stepladder's own path beside what a user would pick instead, in one run, with equal work checked."""
