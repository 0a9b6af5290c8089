"""Cloud routes: the network between nodes learns which node has which pod CIDR."""

from controllers.route.controller import RouteController

__all__ = ["RouteController"]
