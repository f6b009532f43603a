"""bare_stack: twenty groups of faults, injected into the plain libraries wired the usual way and into Stepladder.

make bare-stack                           all of them, into docs/bare_stack.{md,json}; Linux, 15 minutes on 2 cores
python -m benchmarks.bare_stack X8 X14    these two, printed only

A group is one function in a module of faults/; it is called once for each stack and returns what it saw. What the plain
libraries are told stands in plain/: scripts as their documentations write them, on tiny random models.
"""
