"""From own conductances to the cycle over pieces, by either route."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...multigrid.hierarchy import COARSEST
from ...multigrid.preconditioner import power_of_two
from ...multigrid.setup_choice import MANY, IsolatedPiecesError, check_isolated
from ...multigrid.setup_pieces.build import graph_stages
from ..builders import Fields
from ..partition import Array, Partition
from .assembled import AssembledPieces
from .first_graph import FirstGraph, build_first_graph
from .gathered_graph import GatheredGraph
from .ghosted import GhostedPieces


def build_pieces(
    part: Partition, fields: Fields, diag: Array, matrix: Callable[[], Any], route: str, varying: bool
) -> GhostedPieces | AssembledPieces:
    """Return the cycle over pieces; `matrix` gives the operator assembled. Collective.

    varying : whether links have several conductances: then fp64 is taken where too many pieces are isolated
    """
    from mpi4py import MPI

    exponent = power_of_two(part.comm.allreduce(float(diag.max(initial=0.0)), MPI.MAX))
    factor = math.ldexp(1.0, -exponent)
    try:
        graph, below = _levels(part, fields, factor, np.float32, MANY if varying else 1.0)
    except IsolatedPiecesError:  # on all ranks: they look at the same graphs
        graph, below = _levels(part, fields, factor, np.float64, 1.0)
    if route == "ghosted":
        return GhostedPieces(part, graph, below, exponent)
    return AssembledPieces(part, matrix(), graph, below, exponent)


def _levels(
    part: Partition, fields: Fields, factor: float, kind: Any, allowed: float
) -> tuple[FirstGraph, GatheredGraph]:
    """Return the first graph and the levels below it, in the precision of the cycle."""
    graph = build_first_graph(part, fields, factor, kind)
    check_isolated(graph.level.diag, graph.total, allowed)
    stages, inverse = graph_stages(graph.level, graph.total, graph.unknowns, kind, COARSEST, allowed)
    return graph, GatheredGraph(graph, stages, inverse, kind)
