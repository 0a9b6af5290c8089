"""StatefulSet: pods with an identity (name, ordinal, claims) that outlives them."""

from controllers.statefulset.controller import StatefulSetController

__all__ = ["StatefulSetController"]
