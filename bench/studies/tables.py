"""The tables and pictures that the studies add to the pages; `krylearn report` finds them here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..show.markdown import markdown
from .curvature import table as curvature_table
from .integrations import table as integrations_table
from .solvers import (
    coarsenings,
    cycle_ablations,
    learned_steps,
    published_table,
    rank_contest,
    rules,
    sequence,
    warm_starts,
)
from .tuner import overhead, tables as tuner_tables, two_scales

Lines = Sequence[dict[str, Any]]


def _rules_table(lines: Lines) -> str:
    return markdown(rules.HEADER, rules.summary(lines))


def _ablations_table(lines: Lines) -> str:
    grid, seeds = " x ".join(map(str, lines[0]["shape"])), len({line["seed"] for line in lines})
    title = f"**Iterations to {lines[0]['tolerance']:g}, {grid}, means over {seeds} seeds of the test stream**"
    return f"{title}\n\n{markdown(cycle_ablations.HEADER, cycle_ablations.summary(lines))}"


def _coarsenings_table(lines: Lines) -> str:
    parts = [own for _, own in coarsenings.by_shape(lines)]
    return "\n\n".join(f"**{coarsenings.title(own)}**\n\n{markdown(*coarsenings.measured(own))}" for own in parts)


def _coarsenings_costs(lines: Lines) -> str:
    return markdown(*coarsenings.costs_table(lines))


def _coarsenings_sizes(lines: Lines) -> str:
    return markdown(*coarsenings.growth_table(lines))


def _steps_table(lines: Lines) -> str:
    return f"**{learned_steps.title(lines)}**\n\n{markdown(learned_steps.HEADER, learned_steps.rows(lines))}"


def _ranks_table(lines: Lines) -> str:
    return f"**{rank_contest.title(lines)}**\n\n{markdown(rank_contest.HEADER, rank_contest.rows(lines))}"


def _sequence_table(lines: Lines) -> str:
    return f"**{sequence.title(lines)}**\n\n{markdown(sequence.HEADER, sequence.summary(lines))}"


def _curvature_table(lines: Lines) -> str:
    return markdown(curvature_table.HEADER, curvature_table.rows(lines))


def _warm_starts_table(lines: Lines) -> str:
    return markdown(warm_starts.HEADER, warm_starts.rows(lines))


def _batch_scaling_table(view: str) -> Callable[[Lines], str]:
    def write(lines: Lines) -> str:
        from .batch_scaling.tables import table_of  # needs torch, which the other tables do not

        return table_of(view)(lines)

    return write


def _batch_scaling_picture(lines: Lines, images: Path) -> None:
    from .batch_scaling.figure import scaling_figure

    scaling_figure(lines, images / "scaling.png")


def _integrations_table(lines: Lines) -> str:
    return markdown(integrations_table.HEADER, integrations_table.rows(lines))


def _gains_table(lines: Lines) -> str:
    return markdown(integrations_table.GAINS, integrations_table.gains(lines))


def _blend_picture(lines: Lines, images: Path) -> None:
    from .integrations.picture import draw

    draw(lines, images)


def _published_table(lines: Lines) -> str:
    return published_table.blocks(lines, markdown)


def _published_counts(lines: Lines) -> str:
    return markdown(published_table.COUNTS, published_table.counted(lines))


def _fuzz_table(lines: Lines) -> str:
    """Say what `make fuzz` has found, overall, per precision and decades of A, then per builder and entry point."""
    names = {line["problem"]: line["more"] for line in lines}
    kinds = sorted((n for n in names if n.startswith("float") and not n.endswith(" any")), key=_place_of_scale)
    order = ["all", "float64 any", "float32 any", *kinds, *sorted(n for n in names if n.startswith(("builder", "way")))]
    rows = []
    for name in order:
        found = names[name]
        counts = {verdict: found.get(verdict, 0) for verdict in ("fine", "failed", "refused", "missed", "lie", "crash")}
        solvable = counts["fine"] + counts["missed"]
        rate = f"{100 * counts['fine'] / solvable:.3f} %" if solvable else "-"
        words = name.replace(" any", "").replace("way ", "by ").replace("builder ", "built from ")
        words = words.replace("float64 1", "float64, unit of A 1").replace("float32 1", "float32, unit of A 1")
        rows.append(
            [words, *(f"{n:,}" for n in (sum(counts.values()), counts["lie"], counts["crash"], solvable)), rate]
        )
    return markdown(["", "systems", "lies", "crashes", "solvable", "of these converged"], rows)


def _place_of_scale(name: str) -> tuple[bool, bool, float]:
    """Order "float64 1e-30 to 1e+0" by precision and decade, the unit 1 first."""
    dtype, first = name.split()[:2]
    return dtype != "float64", name.count(" ") > 1, float(first)


TABLES: dict[str, tuple[Callable[[Lines], str], str]] = {
    "rules": (_rules_table, "krylearn study rules"),
    "ablations": (_ablations_table, "krylearn study ablations"),
    "coarsenings": (_coarsenings_table, "krylearn study coarsenings"),
    "coarsenings-costs": (_coarsenings_costs, "krylearn study coarsenings --methods pieces"),
    "coarsenings-sizes": (_coarsenings_sizes, "krylearn study coarsenings --sizes 64 128 --methods default"),
    "steps": (_steps_table, "krylearn study steps"),
    "integrations": (_integrations_table, "krylearn study integrations"),
    "integrations-gains": (_gains_table, "krylearn study integrations"),
    "ranks": (_ranks_table, "mpirun -n 2 krylearn study ranks"),
    "sequence": (_sequence_table, "krylearn study sequence"),
    "curvature": (_curvature_table, "krylearn study curvature"),
    "published": (_published_table, "krylearn study published"),
    "publishedcounts": (_published_counts, "krylearn study published --counts --seeds 3 --rhs white divergence"),
    "warmstarts": (_warm_starts_table, "krylearn study warmstarts"),
    "fuzz": (_fuzz_table, 'make fuzz ARGS="systems --publish ..."'),
    "training": (tuner_tables.loss_table, "krylearn study training"),
    "training-train": (tuner_tables.training_loss_table, "krylearn study training"),
    "training-cost": (tuner_tables.cost_table, "krylearn study training"),
    "training-ablation": (tuner_tables.ablation_table, "krylearn study training"),
    "training-robustness": (tuner_tables.robustness_table, "krylearn study training"),
    **{
        f"batch_scaling-{view}": (_batch_scaling_table(view), "krylearn study batch-scaling")
        for view in ("optima", "rules", "auto", "cost", "pairs")
    },
    "overhead": (overhead.overhead_table, "krylearn study overhead"),
    "two_scales": (two_scales.table_of_two, "krylearn study two-scales"),
    **{
        f"batch_scaling_fresh-{view}": (
            _batch_scaling_table(view),
            "krylearn study batch-scaling --tasks textures pointers mixture --sizes 32 128 512 "
            "--records bench/studies/records/batch_scaling_fresh.jsonl",
        )
        for view in ("auto", "cost")
    },
}
# experiment -> what draws its last run into docs/images
PICTURES: dict[str, Callable[[Lines, Path], None]] = {
    "training": tuner_tables.draw,
    "batch_scaling": _batch_scaling_picture,
    "integrations": _blend_picture,
}
