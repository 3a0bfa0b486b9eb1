"""The command line, as `mpirun -n N krylearn ...` starts it."""

import sys

from krylearn.bench.cli import main

sys.exit(main())
