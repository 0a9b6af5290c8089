"""Garbage collector: what has lost all its owners goes; owners may wait for, or orphan, their dependents."""

from controllers.garbage.controller import GarbageCollector

__all__ = ["GarbageCollector"]
