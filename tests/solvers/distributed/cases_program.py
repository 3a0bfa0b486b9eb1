"""Run by `mpirun -n N`: the cases of the modules named, one after the other; rank 0 prints a JSON line per case.

One start of the interpreters serves all of them.
"""

import importlib
import json
import sys

from krylearn.solvers.distributed.petsc_library import world

for module in sys.argv[1:]:
    if world().rank == 0:
        print(json.dumps({"module": module}), flush=True)
    importlib.import_module(module).main()
