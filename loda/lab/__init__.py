"""The harness up to a trained checkpoint, in reading order: config, stage, run, data, base, training."""

import logging

# accelerate imports bitsandbytes where it is installed, which on some CPUs warns of kernels that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
