"""`python -m bench [name ...]`: run the named measurements, all by default, and print their tables.

Interrupted or terminated, a measurement ends the processes it has started.
"""

from __future__ import annotations

import signal
import sys

from bench import api, cluster, controllers, dns, hollow, nodes, proxy, scheduler, store

MEASUREMENTS = {
    "api": api.main,
    "cluster": cluster.main,
    "controllers": controllers.main,
    "scheduler": scheduler.main,
    "hollow": hollow.main,
    "nodes": nodes.main,
    "proxy": proxy.main,
    "dns": dns.main,
    "store": store.main,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"no such measurement: {', '.join(unknown)} (there are {', '.join(MEASUREMENTS)})")
        return 2
    # SIGTERM as SIGINT: whatever runs is cancelled, and what it has started is ended.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for name in names or list(MEASUREMENTS):
            MEASUREMENTS[name]()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
