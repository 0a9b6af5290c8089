"""ImageLocality: prefer nodes that already hold the pod's images, by their size."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns
from scheduler.framework import MAX_SCORE, Rows, Scores
from scheduler.podinfo import PodInfo

_MIB = 1024 * 1024
_LEAST = 23 * _MIB
_MOST_PER_CONTAINER = 1000 * _MIB


def canonical(image: str) -> str:
    """The name with a tag, as nodes report it (`:latest` where none is given)."""
    last = image.rsplit("/", 1)[-1]
    return image if ":" in last or "@" in last else f"{image}:latest"


class ImageLocality:
    name = "ImageLocality"

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        """Sizes of present images, each weighted by the share of nodes that have it, scaled between the
        bounds.
        """
        names = [canonical(image) for image in pod.images]
        known = [name for name in names if nodes.images.rows.get(name)]
        if not known:
            return None
        sums = np.zeros(len(nodes.live), dtype=np.float64)
        for name in known:
            holders = nodes.images.rows[name]
            sums[list(holders)] += nodes.images.sizes[name] * len(holders) / max(nodes.node_count, 1)
        most = _MOST_PER_CONTAINER * len(names)
        clipped = np.clip(sums[rows], _LEAST, most)
        out: Scores = np.floor(MAX_SCORE * (clipped - _LEAST) / (most - _LEAST))
        return out
