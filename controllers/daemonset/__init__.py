"""DaemonSet: one pod of the template on every node that fits."""

from controllers.daemonset.controller import DaemonSetController

__all__ = ["DaemonSetController"]
