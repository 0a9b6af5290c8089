"""Services of type LoadBalancer: an address of the cloud, announced for the nodes that answer."""
