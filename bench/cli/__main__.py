"""`python -m krylearn.bench.cli`."""

import sys

from . import main

sys.exit(main())
