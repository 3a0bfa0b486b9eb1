"""Tables of `krylearn study integrations`: one of everything, and a sentence for each package's section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]
HEADER = ("package", "system", "lines", "part", "its default", "its fastest own", "ours", "default / ours",
          "fastest / ours")  # fmt: skip


def by_system(lines: Sequence[Line]) -> list[dict[str, Line]]:
    """Gather the roles of each system, in the order of the records.

    Examples
    --------
    >>> line = {"problem": "box", "shape": [4, 4], "more": {"package": "p", "role": "ours"}}
    >>> [sorted(roles) for roles in by_system([line, line | {"shape": [8, 8]}])]
    [['ours'], ['ours']]
    """
    found: dict[tuple[Any, ...], dict[str, Line]] = {}
    for line in lines:
        key = (line["more"]["package"], line["problem"], tuple(line["shape"]))
        found.setdefault(key, {})[line["more"]["role"]] = line
    return list(found.values())


def seconds(line: Line | None) -> str:
    """Write name and time of a method.

    >>> seconds({"method": "cg", "solve_s": 0.0123}), seconds(None), seconds({"method": "cg", "solve_s": None})
    ('cg 12 ms', '-', 'cg failed')
    """
    if line is None:
        return "-"
    took = line["solve_s"]
    if took is None:
        return f"{line['method']} failed"
    return f"{line['method']} {took:.3g} s" if took >= 1 else f"{line['method']} {1000 * took:.2g} ms"


def ratio(roles: dict[str, Line], role: str) -> float | None:
    """Return how many times longer a method takes than ours.

    >>> ratio({"ours": {"solve_s": 2.0}, "default": {"solve_s": 3.0}}, "default")
    1.5
    """
    theirs, ours = (roles.get(name, {}).get("solve_s") for name in (role, "ours"))
    return theirs / ours if theirs and ours else None


def rows(lines: Sequence[Line]) -> list[list[str]]:
    """Write a row for each system.

    Examples
    --------
    >>> facts = {"package": "p", "role": "ours", "lines": 1, "part": "whole call", "quantity": "x"}
    >>> rows([{"problem": "box", "shape": [4, 4], "version": "1.0", "method": "cg", "solve_s": 0.5, "more": facts}])
    [['p 1.0', 'box, 4 x 4', '1', 'whole call', '-', '-', 'cg 5e+02 ms', '-', '-']]
    """
    made = []
    for roles in by_system(lines):
        first = next(iter(roles.values()))
        grid = " x ".join(map(str, first["shape"]))
        facts = [f"{first['more']['package']} {first['version']}", f"{first['problem']}, {grid}"]
        facts += [str(first["more"]["lines"]), first["more"]["part"]]
        times = [seconds(roles.get(role)) for role in ("default", "fastest", "ours")]
        ratios = [ratio(roles, role) for role in ("default", "fastest")]
        made.append([*facts, *times, *("-" if r is None else f"{r:.3g}" for r in ratios)])
    return made


def sentence(lines: Sequence[Line], package: str) -> str:
    """Say what the largest system of a package gains, and the smallest.

    Examples
    --------
    >>> facts = {"package": "p", "lines": 1, "part": "whole call", "quantity": "x"}
    >>> given = {"problem": "box", "shape": [4, 4], "unknowns": 16, "version": "1.0"}
    >>> ours = given | {"method": "ours", "solve_s": 0.1, "more": facts | {"role": "ours"}}
    >>> theirs = given | {"method": "direct", "solve_s": 0.3, "more": facts | {"role": "default"}}
    >>> print(sentence([ours, theirs], "p"))
    *Measured, whole call: box, 4 x 4: 3 times faster than its default (direct).*
    """
    parts, part = [], ""
    for roles in by_system([line for line in lines if line["more"]["package"] == package]):
        first = next(iter(roles.values()))
        known = [(name, roles[name], ratio(roles, name)) for name in ("default", "fastest") if name in roles]
        said = [f"{r:.2g} times faster than its {name} ({line['method']})" for name, line, r in known if r is not None]
        if said:
            part = first["more"]["part"]
            parts.append(f"{first['problem']}, {' x '.join(map(str, first['shape']))}: {', '.join(said)}")
    return f"*Measured, {part}: {'; '.join(parts)}.*" if parts else "*Not measured.*"
