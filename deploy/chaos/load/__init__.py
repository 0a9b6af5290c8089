"""What clients do while faults are in force, all of it written down.

store.py    puts, gets, compare-and-swap and transactions straight at the store; a watch; who leads
api.py      ConfigMaps through the load balancer: writers, readers, a watcher
setup.py    what they need first, asked for until it is there
service.py  a Deployment behind a Service: is it there, does it answer
"""
