"""Optimal one-to-one assignment (the Hungarian method in its shortest-augmenting-path form,
Jonker and Volgenant 1987), for a few dozen tracks and faces: O(n^3), no dependency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign(cost: NDArray[np.floating], *, limit: float) -> list[tuple[int, int]]:
    """Pair rows with columns at the least total cost.

    Args:
        cost: (n, m), finite.
        limit: pairs that cost more than this are never made; leaving a row unpaired costs `limit`.

    Returns:
        (row, column) pairs in order of the rows.
    """
    n, m = cost.shape
    if n == 0 or m == 0:
        return []
    # n dummy columns of cost `limit` let every row stay alone.
    full = np.hstack([np.minimum(cost, 2.0 * abs(limit) + 1e6), np.full((n, n), limit)])
    columns = m + n
    u, v = np.zeros(n + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, dtype=int)  # 1-based; 0 = free
    for row in range(1, n + 1):
        row_of[0] = row
        column = 0
        distance = np.full(columns + 1, np.inf)
        previous = np.zeros(columns + 1, dtype=int)
        done = np.zeros(columns + 1, dtype=bool)
        while row_of[column] != 0:
            done[column] = True
            reduced = full[row_of[column] - 1] - u[row_of[column]] - v[1:]
            better = ~done[1:] & (reduced < distance[1:])
            distance[1:][better] = reduced[better]
            previous[1:][better] = column
            nearest = 1 + int(np.argmin(np.where(done[1:], np.inf, distance[1:])))
            step = distance[nearest]
            u[row_of[done]] += step
            v[done] -= step
            distance[~done] -= step
            column = nearest
        while column != 0:
            row_of[column] = row_of[previous[column]]
            column = previous[column]
    pairs = [(int(row_of[c]) - 1, c - 1) for c in range(1, m + 1) if row_of[c] != 0]
    return sorted((r, c) for r, c in pairs if cost[r, c] <= limit)
