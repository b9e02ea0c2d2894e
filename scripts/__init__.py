"""Command-line tools around the harness: `python -m scripts VERB`, or `python -m scripts.<module>`."""

import sys

from loda.lab.interrupt import hold

if sys.argv[0] == "-m":  # `python -m scripts.verify` imports this first, and then its modules for seconds
    hold()
