"""A real cluster under faults, judged by what its clients saw: `python -m tests.robustness --help`.

__main__.py   the command line, and the table at the end
lab.py        network namespaces on a bridge, certificates, small disks: all gone with the process
members.py    the member processes, of etcdlite, of the real etcd, or broken on purpose
broken.py     stores that lie, each in one way
recorder.py   a client that writes down what it asks and is told
workload.py   what clients do
schedule.py   what happens to the members, from a seed
campaign.py   rounds: load and faults, then calm, then the reckoning
"""
