"""Cloud routes: the network between nodes learns which node has which pod CIDR."""
