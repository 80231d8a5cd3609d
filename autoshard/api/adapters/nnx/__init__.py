"""NNX: graphs of modules, optimizers, metrics and random streams, updated in place.

Import it only where flax is loaded already.
"""
