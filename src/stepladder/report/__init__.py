"""Report: what people read, written by the code."""
