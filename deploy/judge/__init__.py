"""Did the store keep its promises? Pure: histories in, violations out.

model.py      what a request does to a state: the specification, in one function
history.py    what clients did and saw: calls, watches, leases, the log; and their JSON
revisions.py  linearizability decided by etcd's revisions, in one pass over any length of history
wgl.py        linearizability by search (Wing and Gong, Lowe), for answers without revisions
watches.py    ordered, unique, atomic, reliable, resumable, bookmarks
leases.py     a key neither outlives its lease nor dies before it
verdict.py    all of it over one history, and the shortest account of what is wrong
"""
