"""The harness up to a trained checkpoint: configuration, data, base models, loss, optimiser, training loop.

Unlike the library it may change with any table. It imports the library, never the other way round.
"""
