"""Stepladder: prompt it, tune it, or build it; one pipeline runs all three and compares them honestly."""
