"""`make fuzz ARGS="files --seed 7"`: one kind of fuzzing, or without a name every kind for some minutes."""

import importlib
import sys
from pathlib import Path

KINDS = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith(("_", "test_")))


def main(arguments):
    chosen = KINDS if not arguments or arguments[0].startswith("-") else [arguments.pop(0)]
    if chosen[0] not in KINDS:
        print(f"got {chosen[0]}; expected one of {', '.join(KINDS)}", file=sys.stderr)
        return 2
    return max(importlib.import_module(f"{__package__}.{name}").main(list(arguments)) for name in chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
