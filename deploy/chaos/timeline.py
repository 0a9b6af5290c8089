"""One run as a picture: faults, leaders, writes, errors, the Deployment and its Service, over one time axis.

Inline SVG whose colours come from the page's style sheet, so that it is readable light and dark. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise

from deploy.chaos.record import Run, leaders

WIDTH, LEFT, RIGHT = 1000, 108, 12
LANE, GAP, BAR = 64, 12, 18
BIN = 0.5  # seconds
AXIS = 26
STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300)  # seconds between two marks of the axis
MARKS = 12


def _rect(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    box = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {box}>{tip}</rect>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def histogram(times: Iterable[float], start: float, end: float) -> list[int]:
    """How many of `times` fall into each bin between start and end."""
    counts = [0] * max(1, int((end - start) / BIN) + 1)
    for at in times:
        if start <= at <= end:
            counts[int((at - start) / BIN)] += 1
    return counts


def rows_of(spans: Sequence[tuple[float, float]]) -> list[int]:
    """A row for each span so that no two in one row overlap; the lowest that is free (spans in any order)."""
    chosen = [0] * len(spans)
    free: list[float] = []  # per row: when it is free again
    for index in sorted(range(len(spans)), key=lambda number: spans[number]):
        begin, end = spans[index]
        row = next((number for number, at in enumerate(free) if at <= begin), len(free))
        if row == len(free):
            free.append(end)
        free[row] = end
        chosen[index] = row
    return chosen


class _Picture:
    """The drawing so far; `y` is where the next lane begins."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.start = run.start
        self.end = max(run.end, run.start + 1.0)
        self.parts: list[str] = []
        self.y = 8.0

    def x(self, at: float) -> float:
        inside = min(max(at, self.start), self.end)
        return LEFT + (inside - self.start) / (self.end - self.start) * (WIDTH - LEFT - RIGHT)

    def lane(self, name: str, height: float, draw: Callable[[float, float], None]) -> None:
        """A labelled strip of the picture."""
        self.parts.append(_text(LEFT - 10, self.y + min(height / 2 + 4, 14), name, "name", "end"))
        draw(self.y, height)
        self.y += height + GAP

    def bands(self) -> str:
        """What lies behind all lanes: when a fault was in force."""
        strikes = self.run.strikes
        return "".join(
            _rect(self.x(one.asked), 0, max(2.0, self.x(one.ended) - self.x(one.asked)), self.y, "band")
            for one in strikes
        )

    def faults(self, top: float, height: float) -> None:
        strikes = self.run.strikes
        # A label is about seven units a letter: two of them must not lie on one another.
        spans = [
            (self.x(one.asked), max(self.x(one.ended), self.x(one.asked) + 7 * len(str(one)) + 8))
            for one in strikes
        ]
        for one, row in zip(strikes, rows_of(spans), strict=True):
            x, y = self.x(one.asked), top + row * (BAR + 2)
            seconds = f"{one.asked - self.start:.1f} s to {one.ended - self.start:.1f} s"
            width = max(3.0, self.x(one.ended) - x)
            self.parts.append(
                _rect(x, y, width, BAR, "fault failed" if one.error else "fault", f"{one}: {seconds}")
            )
            late = x + 7 * len(str(one)) > WIDTH
            where, anchor = (x - 4, "end") if late else (x + 5, "start")
            self.parts.append(_text(where, y + 13, str(one), "label", anchor))

    def leader(self, top: float, height: float) -> None:
        for reign in leaders(self.run.samples):
            if reign.end < self.start:
                continue
            x, colour = self.x(reign.start), self.run.members.index(reign.host) % 5
            width = max(2.0, self.x(reign.end) - x - 1)
            words = f"{reign.host} leads in term {reign.term}"
            self.parts.append(_rect(x, top, width, height, f"leader host{colour}", words))
            label = f"{reign.host} ({reign.term})"
            if width > 7 * len(label):
                self.parts.append(_text(x + 5, top + 13, label, "on"))

    def members(self, top: float, height: float) -> None:
        """Per member, when it was silent or without a leader."""
        step = height / max(1, len(self.run.members))
        for row, host in enumerate(self.run.members):
            y = top + row * step
            self.parts.append(_rect(LEFT, y + 1, WIDTH - LEFT - RIGHT, step - 2, "good"))
            own = [sample for sample in self.run.samples if sample.host == host and sample.at >= self.start]
            for one, following in pairwise(own):
                if one.role < 0:
                    kind, words = ("bad", "silent") if one.role == -2 else ("warn", "without a leader")
                    width = self.x(following.at) - self.x(one.at)
                    self.parts.append(_rect(self.x(one.at), y + 1, width, step - 2, kind, f"{host}: {words}"))

    def throughput(self, top: float, height: float) -> None:
        series = [
            ("store", histogram(self.run.store_acknowledged(), self.start, self.end)),
            ("api", histogram(self.run.api_acknowledged(), self.start, self.end)),
        ]
        most = max(1, *(max(counts) for _, counts in series))
        for kind, counts in series:
            self.curve(counts[:-1] or counts, top, height, most, kind)
        self.parts.append(_text(LEFT - 10, top + 28, f"to {most / BIN:.0f}/s", "small", "end"))

    def curve(self, counts: Sequence[int], top: float, height: float, most: int, kind: str) -> None:
        points = [
            (self.x(self.start + (index + 0.5) * BIN), top + height * (1 - count / most))
            for index, count in enumerate(counts)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        floor = top + height
        self.parts.append(
            f'<polygon class="area {kind}" points="{points[0][0]:.1f},{floor:.1f} {line} '
            f'{points[-1][0]:.1f},{floor:.1f}"/><polyline class="line {kind}" points="{line}"/>'
        )

    def errors(self, top: float, height: float) -> None:
        failed = [*self.run.store_failed(), *self.run.counters.failed_at]
        counts = histogram(failed, self.start, self.end)
        most = max(1, *counts)
        width = self.x(self.start + BIN) - self.x(self.start)
        for index, count in enumerate(counts):
            if count:
                at, tall = self.start + index * BIN, height * count / most
                words = f"{count} failed requests at {index * BIN:.1f} s"
                self.parts.append(_rect(self.x(at), top + height - tall, width - 0.5, tall, "bad", words))
        self.parts.append(_text(LEFT - 10, top + 28, f"{sum(counts)} in all", "small", "end"))

    def service(self, top: float, height: float) -> None:
        """Per worker, whether the Service answered; above it a line would only repeat the Deployment's."""
        step = height / max(1, len(self.run.workers))
        for row, worker in enumerate(self.run.workers):
            own = [(at, good) for at, host, good in self.run.service.answers if host == worker]
            y = top + row * step
            for (at, good), (following, _) in pairwise(own):
                if following >= self.start:
                    width = self.x(following) - self.x(at)
                    words = f"{worker}: {'answered' if good else 'no answer'}"
                    self.parts.append(
                        _rect(self.x(at), y + 1, width, step - 2, "good" if good else "bad", words)
                    )

    def deployment(self, top: float, height: float) -> None:
        wanted = self.run.scenario.work.replicas
        for one, following in pairwise(self.run.service.looks):
            if following.at < self.start:
                continue
            x, width = self.x(one.at), self.x(following.at) - self.x(one.at)
            if one.nodes is None:
                self.parts.append(_rect(x, top, width, height, "unknown", "the API did not answer"))
                continue
            tall = height * min(1.0, len(one.nodes) / wanted)
            kind = "good" if len(one.nodes) >= wanted else "warn"
            words = f"{len(one.nodes)} of {wanted} pods ready"
            self.parts.append(_rect(x, top + height - tall, width, tall, kind, words))

    def axis(self) -> None:
        length = self.end - self.start
        step = next((step for step in STEPS if length / step <= MARKS), STEPS[-1])
        for second in range(0, int(length) + 1, step):
            x = self.x(self.start + second)
            self.parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{self.y:.1f}"/>')
            self.parts.append(_text(x, self.y + 14, f"{second} s", "small", "middle"))


def _fault_rows(picture: _Picture) -> int:
    spans = [
        (picture.x(one.asked), max(picture.x(one.ended), picture.x(one.asked) + 7 * len(str(one)) + 8))
        for one in picture.run.strikes
    ]
    return max(rows_of(spans), default=0) + 1


def draw(run: Run) -> str:
    """The whole picture; nothing for a run that did not begin."""
    if not run.start or not run.end:
        return ""
    picture = _Picture(run)
    picture.lane("faults", _fault_rows(picture) * (BAR + 2), picture.faults)
    picture.lane("leader", BAR, picture.leader)
    picture.lane("members", 10.0 * len(run.members), picture.members)
    picture.lane("writes", LANE, picture.throughput)
    picture.lane("errors", LANE / 2, picture.errors)
    picture.lane("Deployment", LANE / 2, picture.deployment)
    picture.lane("Service", 10.0 * len(run.workers), picture.service)
    bands = picture.bands()
    picture.axis()
    words = f"Timeline of {run.scenario.title}: faults, leaders, members, writes, errors, Deployment, Service"
    return (
        f'<svg viewBox="0 0 {WIDTH} {picture.y + AXIS:.0f}" role="img" aria-label="{escape(words)}">'
        + bands
        + "".join(picture.parts)
        + "</svg>"
    )
