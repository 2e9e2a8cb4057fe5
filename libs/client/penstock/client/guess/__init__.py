"""A first pipeline file for data at hand: read, guess, decide, say why. Only `evidence` needs more
than the client does: its `init` extra.
"""
