"""The cloud `lab`: its network is a namespace of this machine, its instances are the hosts of a topology."""
