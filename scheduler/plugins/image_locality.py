"""ImageLocality: prefer nodes that already hold the pod's images, by their size."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import MAX_SCORE, Scores
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
    local_score = False  # an image counts by the share of nodes that have it

    def pre_score(self, pod: PodInfo, nodes: Columns) -> bool:
        return any(canonical(image) in nodes.images.rows for image in pod.images)

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        """Sizes of present images, each weighted by the share of nodes that have it, scaled between the
        bounds.
        """
        names = [canonical(image) for image in pod.images]
        sums = np.zeros(nodes.top)
        for name in names:
            sums += nodes.images.weights(name, nodes.top, nodes.node_count)
        most = _MOST_PER_CONTAINER * len(names)
        clipped = np.clip(sums[rows], _LEAST, most)
        out: Scores = np.floor(MAX_SCORE * (clipped - _LEAST) / (most - _LEAST))
        return out
