"""Decoding and scoring: from a trained checkpoint to the numbers of a table.

The name shadows nothing as long as it is used as `from eval.score import score`: `import eval.x`
would hide the built-in function `eval` in that module. For the same reason this package exports
nothing itself, and it is not installed with the library.
"""

import sys

from loda.lab.interrupt import hold

if sys.argv[0] == "-m":  # `python -m eval.table` imports this first, and then its modules for seconds
    hold()
