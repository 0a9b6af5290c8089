"""The in-tree plugins, one file each, and the order in which they run (the default plugins of
kube-scheduler).

Adding a plugin is one new file and one line in `PLUGINS`. Which extension points it takes part in follows
from its methods (`scheduler.framework.POINTS`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scheduler.framework import Plugin
from scheduler.plugins.balanced_allocation import BalancedAllocation
from scheduler.plugins.default_binder import DefaultBinder
from scheduler.plugins.default_preemption import DefaultPreemption
from scheduler.plugins.dynamic_resources import DynamicResources
from scheduler.plugins.image_locality import ImageLocality
from scheduler.plugins.inter_pod_affinity import InterPodAffinity
from scheduler.plugins.node_affinity import NodeAffinity
from scheduler.plugins.node_name import NodeName
from scheduler.plugins.node_ports import NodePorts
from scheduler.plugins.node_unschedulable import NodeUnschedulable
from scheduler.plugins.node_volume_limits import NodeVolumeLimits
from scheduler.plugins.priority_sort import PrioritySort
from scheduler.plugins.resources_fit import ResourcesFit
from scheduler.plugins.scheduling_gates import SchedulingGates
from scheduler.plugins.taint_toleration import TaintToleration
from scheduler.plugins.topology_spread import TopologySpread
from scheduler.plugins.volume_binding import VolumeBinding
from scheduler.plugins.volume_restrictions import VolumeRestrictions
from scheduler.plugins.volume_zone import VolumeZone

# Name -> (how to make it with default arguments, weight of its score).
_TABLE: tuple[tuple[Callable[..., Plugin], int], ...] = (
    (SchedulingGates, 0),
    (PrioritySort, 0),
    (NodeUnschedulable, 0),
    (NodeName, 0),
    (TaintToleration, 3),
    (NodeAffinity, 2),
    (NodePorts, 0),
    (ResourcesFit, 1),
    (VolumeRestrictions, 0),
    (NodeVolumeLimits, 0),
    (VolumeBinding, 0),
    (VolumeZone, 0),
    (DynamicResources, 0),
    (TopologySpread, 2),
    (InterPodAffinity, 2),
    (DefaultPreemption, 0),
    (BalancedAllocation, 1),
    (ImageLocality, 1),
    (DefaultBinder, 0),
)
PLUGINS: Mapping[str, tuple[Callable[..., Plugin], int]] = {
    make().name: (make, weight) for make, weight in _TABLE
}
