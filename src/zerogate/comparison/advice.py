"""The line of a comparison that says which method to use, and why."""

from __future__ import annotations

import math

from zerogate.comparison.rows import Row


def recommend(rows: list[Row], tasks: list[str]) -> str | None:
    """The line `use X, because`: the best by the first task (else by held-out loss), or what is as good for less.

    Two methods count as equal where their means differ by less than two standard errors of the difference. The
    error comes from the seeds; with one seed, for an accuracy, from the number of questions. For less means at most
    half the trained parameters.

    Returns:
        None if fewer than two methods have a figure.
    """
    task = tasks[0] if tasks else None
    figures: dict[str, tuple[Row, float, float]] = {}
    for row in rows:
        spread = row.accuracy.get(task) if task else row.held_out_loss
        if not row.method or row.failed or spread is None:
            continue
        if spread.deviation is not None:
            error = spread.deviation / math.sqrt(spread.seeds)
        elif task:
            error = math.sqrt(max(spread.mean * (1 - spread.mean), 0) / row.questions[task])
        else:
            error = 0.0
        figures[row.method] = (row, spread.mean if task else -spread.mean, error)
    if len(figures) < 2:
        return None
    best, top, best_error = max(figures.values(), key=lambda figure: figure[1])
    equals = [f for f in figures.values() if top - f[1] <= 2 * math.hypot(best_error, f[2])]
    smaller = [f for f in equals if f[0].trained_parameters <= best.trained_parameters / 2]
    chosen, value, _ = min(
        smaller or [(best, top, best_error)], key=lambda figure: (figure[0].trained_parameters, -figure[1])
    )

    def shown(value: float) -> str:
        return f"{value:.1%} on {task}" if task else f"a held-out loss of {-value:.4f}"

    if chosen is best:
        others = sorted((f for f in figures.values() if f[0] is not best), key=lambda f: -f[1])
        doubt = ", which these runs cannot tell apart" if any(f is others[0] for f in equals) else ""
        return (
            f"Use {best.method}, because it has the best result of {len(figures)} methods: {shown(top)}; next comes "
            f"{others[0][0].method} with {shown(others[0][1])}{doubt}."
        )
    return (
        f"Use {chosen.method}, because its {shown(value)} cannot be told from the best ({best.method}, {shown(top)}) "
        f"by these runs, and it trains {chosen.trained_parameters:,} parameters, not {best.trained_parameters:,}."
    )
