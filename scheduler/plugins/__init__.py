"""The in-tree plugins, one file each, and the order in which they run (the default plugins of
kube-scheduler).

Adding a plugin is one new file and one line in `FILTERS` or `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scheduler.framework import Filter, Score
from scheduler.plugins.balanced_allocation import BalancedAllocation
from scheduler.plugins.image_locality import ImageLocality
from scheduler.plugins.inter_pod_affinity import InterPodAffinity
from scheduler.plugins.node_affinity import NodeAffinity
from scheduler.plugins.node_name import NodeName
from scheduler.plugins.node_ports import NodePorts
from scheduler.plugins.node_unschedulable import NodeUnschedulable
from scheduler.plugins.resources_fit import ResourcesFit
from scheduler.plugins.taint_toleration import TaintToleration
from scheduler.plugins.topology_spread import TopologySpread

FILTERS: Mapping[str, Callable[[], Filter]] = {
    plugin.name: plugin
    for plugin in (
        NodeUnschedulable,
        NodeName,
        TaintToleration,
        NodeAffinity,
        NodePorts,
        ResourcesFit,
        TopologySpread,
        InterPodAffinity,
    )
}

SCORES: Mapping[str, tuple[Callable[[], Score], int]] = {
    plugin.name: (plugin, weight)
    for plugin, weight in (
        (TaintToleration, 3),
        (NodeAffinity, 2),
        (ResourcesFit, 1),
        (TopologySpread, 2),
        (InterPodAffinity, 2),
        (BalancedAllocation, 1),
        (ImageLocality, 1),
    )
}
