"""Embedded stack: Kafka, Triton, its gateway, Envoy and the services on one machine.

    from penstock.stack.stack import down, status, up

    stack = up(Path(".penstock"))       # ready when it returns
    for program in status(stack.home): ...
    down(stack.home)

`python -m penstock.stack.launch` runs at every restart of a program, so nothing is imported here.
"""
