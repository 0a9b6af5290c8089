"""`python -m bench [name ...]`: run the named measurements, all by default, and print their tables."""

from __future__ import annotations

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
    for name in names or list(MEASUREMENTS):
        MEASUREMENTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
