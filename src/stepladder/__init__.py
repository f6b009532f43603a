"""Stepladder: prompt it, tune it, or build it; one pipeline runs all three and compares them honestly."""

import logging

# which peft imports: on processors with AVX512-BF16 it warns that it lacks a package that brings kernels from a hub
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
