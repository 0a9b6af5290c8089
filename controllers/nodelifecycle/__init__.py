"""Node lifecycle: notice silent nodes, say so in conditions and taints, and move their pods away."""

from controllers.nodelifecycle.controller import NodeLifecycleController
from controllers.nodelifecycle.eviction import TaintEvictionController

__all__ = ["NodeLifecycleController", "TaintEvictionController"]
