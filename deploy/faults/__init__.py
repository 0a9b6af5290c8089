"""What can be done to a running system, and undone.

Every fault is a `Fault`: a context manager that is also an (apply, undo) pair.

    process.py   kill, paused                                   by pid
    network.py   partitioned, lossy, throttled                  by the path of a network namespace
    delay.py     delayed                                        by the path of a network namespace
    disk.py      full, small_disk, cut_tail, flip_byte          by directory or file
    fsync.py     slow and failing fsync of a program started under it

All act on what they are handed and nothing else: a namespace is entered, never the machine's own rules
changed.
"""
