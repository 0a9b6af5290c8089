"""Which images may go when the disk fills: unused ones, the longest unused first. Pure.

Thresholds are shares of the image file system in use, as in Kubernetes: above `high` enough is removed to
come down to `low`; an image younger than `minimum_age` seconds on this node stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kubelet.cri.pb import api_pb2 as pb


@dataclass(frozen=True, slots=True)
class Policy:
    """When to begin, when to stop (per cent), and how old an image must be (seconds)."""

    high: int = 85
    low: int = 80
    minimum_age: float = 120.0


@dataclass
class ImageLedger:
    """When each image was first seen and last used, since this kubelet started. Those it finds then are older
    than it can know.
    """

    first_seen: dict[str, float] = field(default_factory=dict)
    last_used: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    looked: bool = False

    def observe(self, images: Iterable[pb.Image], used: set[str], now: float) -> None:
        """Take in what is there; `used` are ids and names that containers refer to."""
        held = {image.id: image for image in images if not _kept(image)}
        first = now if self.looked else float("-inf")
        self.looked = True
        for name in [name for name in self.first_seen if name not in held]:
            for table in (self.first_seen, self.last_used, self.sizes):
                table.pop(name, None)
        for name, image in held.items():
            self.first_seen.setdefault(name, first)
            self.sizes[name] = int(image.size)
            if used & {name, *image.repo_tags, *image.repo_digests}:
                self.last_used[name] = now

    def removable(self, wanted: int, policy: Policy, now: float) -> list[str]:
        """Images to remove until `wanted` bytes are free, longest unused first."""
        idle = [name for name in self.first_seen if self.last_used.get(name) != now]
        idle.sort(key=lambda name: (self.last_used.get(name, 0.0), self.first_seen[name]))
        out = []
        for name in idle:
            if wanted <= 0:
                break
            if now - self.first_seen[name] >= policy.minimum_age:
                out.append(name)
                wanted -= self.sizes[name]
        return out


def _kept(image: pb.Image) -> bool:
    """Pinned images, and the sandbox image that older runtimes do not pin, are nobody's garbage."""
    return image.pinned or any("/pause:" in tag for tag in image.repo_tags)


def excess(capacity: int, free: int, policy: Policy) -> int:
    """Bytes to remove, 0 while the file system is not too full; with `high` at 100 it never is."""
    if not capacity or policy.high >= 100 or (capacity - free) * 100 < policy.high * capacity:
        return 0
    return capacity * (100 - policy.low) // 100 - free
