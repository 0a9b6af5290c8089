"""DefaultPreemption: makes room by evicting less important pods (`scheduler.preemption` has the rules)."""

from scheduler.preemption import DefaultPreemption

__all__ = ["DefaultPreemption"]
