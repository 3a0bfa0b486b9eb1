"""Tables of `krylearn study integrations`: one of everything, and one with a row for each package."""

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
        key = (line["more"]["package"], line["problem"], tuple(line["shape"]), line["more"].get("part"))
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
        limit = line.get("more", {}).get("stopped_after")
        return f"{line['method']} > {limit:g} s" if limit else f"{line['method']} failed"
    return f"{line['method']} {took:.3g} s" if took >= 1 else f"{line['method']} {1000 * took:.2g} ms"


def ratio(roles: dict[str, Line], role: str, digits: int = 3) -> str:
    """Write how many times longer a method takes than ours; a method that was stopped takes more than that.

    >>> ratio({"ours": {"solve_s": 2.0}, "default": {"solve_s": 3.0}}, "default")
    '1.5'
    >>> ratio({"ours": {"solve_s": 2.0}, "default": {"solve_s": None, "more": {"stopped_after": 60.0}}}, "default")
    '> 30'
    >>> ratio({"ours": {"solve_s": 2.0}}, "default")
    '-'
    """
    theirs, ours = (roles.get(name, {}).get("solve_s") for name in (role, "ours"))
    limit = roles.get(role, {}).get("more", {}).get("stopped_after")
    if not ours or not (theirs or limit):
        return "-"
    found = (theirs or limit) / ours
    return ("" if theirs else "> ") + (f"{found:.{digits}g}" if found < 10**digits else f"{found:.0f}")


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
        made.append([*facts, *times, *(ratio(roles, role) for role in ("default", "fastest"))])
    return made


GAINS = (
    "package",
    "part",
    "smallest system",
    "its default / its fastest",
    "largest system",
    "its default / its fastest",
)


def gains(lines: Sequence[Line]) -> list[list[str]]:
    """Write a row for each package and part: how many times faster the smallest and the largest of its systems is.

    Examples
    --------
    >>> facts = {"package": "p", "lines": 1, "part": "whole call", "quantity": "x"}
    >>> given = {"problem": "box", "shape": [4, 4], "unknowns": 16, "version": "1.0"}
    >>> ours = given | {"method": "ours", "solve_s": 0.1, "more": facts | {"role": "ours"}}
    >>> theirs = given | {"method": "direct", "solve_s": 0.3, "more": facts | {"role": "default"}}
    >>> gains([ours, theirs])
    [['p', 'whole call', '4 x 4', '3 / -', '4 x 4', '3 / -']]
    """
    packages: dict[tuple[str, str], list[dict[str, Line]]] = {}
    for roles in by_system(lines):
        if "ours" in roles:
            facts = roles["ours"]["more"]
            packages.setdefault((facts["package"], facts["part"]), []).append(roles)
    made = []
    for (package, part), systems in packages.items():
        systems.sort(key=lambda roles: roles["ours"]["unknowns"])
        row = [package, part]
        for roles in (systems[0], systems[-1]):
            row.append(" x ".join(map(str, roles["ours"]["shape"])))
            row.append(" / ".join(ratio(roles, role, 2) for role in ("default", "fastest")))
        made.append(row)
    return made
