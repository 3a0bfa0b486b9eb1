"""Who imports whom, read from the source: every import counts, those inside functions and for annotations too."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pde", "solvers", "optim", "bench")


def name_of(file):
    """Installed name of a file: solvers/krylov/driver.py is krylearn.solvers.krylov.driver."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("krylearn", *(part for part in parts if part != "__init__")))


def modules(package):
    """Map the installed name of every module of a package to its file."""
    return {name_of(file): file for file in sorted((ROOT / package).rglob("*.py"))}


def targets(tree, name, is_package):
    """Yield the absolute names that a module imports, `from a import b` as a.b; relative ones are resolved."""
    home = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def file_graph(package):
    """Map each module to the modules of the same package that it imports; a name inside a module is that module."""
    known = modules(package)
    graph = {}
    for name, file in known.items():
        found = set()
        for target in targets(ast.parse(file.read_text(encoding="utf-8")), name, file.name == "__init__.py"):
            module = target if target in known else target.rpartition(".")[0]
            if module in known and module != name:
                found.add(module)
        graph[name] = found
    return graph


def folder_graph(graph, package, depth):
    """Merge modules into the folders that stand `depth` levels below the package; modules above them stay single."""
    known = modules(package)

    def folder(name):
        parts = name.split(".")
        inside = parts[2:] if known[name].name == "__init__.py" else parts[2:-1]
        return ".".join(parts[: 2 + depth]) if len(inside) >= depth else name

    merged = {}
    for name, found in graph.items():
        here = folder(name)
        merged.setdefault(here, set()).update(folder(other) for other in found)
    return {here: found - {here} for here, found in merged.items()}


def circles(graph):
    """Return the strongly connected components of more than one node (Tarjan's algorithm, without recursion)."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, others = work[-1]
            for other in others:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(graph.get(other, ())))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while not component or component[-1] != node:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    if len(component) > 1:
                        found.append(sorted(component))
    return found
