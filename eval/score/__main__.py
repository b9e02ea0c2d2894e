"""`python -m eval.score`."""

import sys

from eval.score import main

sys.exit(main())
