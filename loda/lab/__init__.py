"""The harness up to a trained checkpoint: configuration, data, base models, loss, optimiser, training loop.

Unlike the library it may change with any table. It imports the library, never the other way round.
"""

import logging

# accelerate imports bitsandbytes where it is installed, which on some CPUs warns of kernels that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
