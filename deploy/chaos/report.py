"""The table at the end of a chaos run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.chaos.history import Violation


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. Times are seconds; `back` is how long until what was killed did its work again."""

    fault: str
    longest_gap: float
    acknowledged: int
    lost: int
    back: float
    proof: str


def table(rows: Sequence[Row]) -> str:
    """Plain text, one line a fault."""
    head = ("fault", "no write for", "acknowledged", "lost", "back after", "by")
    body = [
        (
            row.fault,
            f"{row.longest_gap:.2f} s",
            str(row.acknowledged),
            str(row.lost),
            f"{row.back:.2f} s",
            row.proof,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *body)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def verdict(lost: Sequence[Violation], watch: Sequence[Violation], acknowledged: int, unknown: int) -> str:
    """The closing lines, with the first violations spelt out."""
    out = [f"{acknowledged} writes acknowledged, {unknown} with unknown outcome"]
    out.append(f"acknowledged writes lost: {len(lost)}; watch violations: {len(watch)}")
    out += [f"  {each.key}: {each.what}" for each in [*lost, *watch][:20]]
    return "\n".join(out)
