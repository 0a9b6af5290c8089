"""The report of a campaign: one HTML file without a script, that needs nothing else, light and dark. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from deploy.chaos import timeline
from deploy.chaos.record import Run
from deploy.chaos.verdict import Finding, Verdict

SHOWN = 30
STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1c2126; --dim: #667; --rule: #d9dde3; --card: #f6f7f9;
  --good: #2e9e63; --warn: #d9921a; --bad: #cf3b3b; --store: #2d6fd2; --api: #8a4fc9; --band: #cf3b3b14;
  --h0: #2d6fd2; --h1: #2e9e63; --h2: #c2701c; --h3: #8a4fc9; --h4: #c23f7d; --fault: #f3c1bd; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --fg: #e6e9ee; --dim: #98a1ad; --rule: #2c333c;
  --card: #1b2026; --good: #3fae74; --warn: #d9a13f; --bad: #e06060; --store: #6aa3f5; --api: #b58af0;
  --band: #e0606022; --h0: #2f62ac; --h1: #2a7a50; --h2: #9a5d20; --h3: #6c45a0; --h4: #94386a;
  --fault: #6b2f2f; } }
body { background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 66rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0; }
p { margin: .4rem 0; max-width: 48rem; }
.dim, .small { color: var(--dim); } .held { color: var(--good); } .violated { color: var(--bad); }
table { border-collapse: collapse; margin: .8rem 0; width: 100%; } th { text-align: left; color: var(--dim);
  font-weight: 500; } td, th { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  margin: 1.4rem 0; padding: 1rem 1.2rem; }
a { color: inherit; } pre { overflow-x: auto; white-space: pre-wrap; margin: .3rem 0; font-size: 12.5px; }
svg { width: 100%; height: auto; margin: .6rem 0; }
svg text { fill: var(--fg); font: 12px system-ui, sans-serif; } svg .name { fill: var(--dim); }
svg .small { fill: var(--dim); font-size: 10.5px; } svg .on { fill: #fff; }
svg .grid { stroke: var(--rule); stroke-width: .6; } svg .band { fill: var(--band); }
svg .fault { fill: var(--fault); } svg .failed { fill: var(--bad); }
svg .good { fill: var(--good); opacity: .55; } svg .warn { fill: var(--warn); } svg .bad { fill: var(--bad); }
svg .unknown { fill: var(--rule); } svg .host0 { fill: var(--h0); } svg .host1 { fill: var(--h1); }
svg .host2 { fill: var(--h2); } svg .host3 { fill: var(--h3); } svg .host4 { fill: var(--h4); }
svg .line { fill: none; stroke-width: 1.6; } svg .line.store { stroke: var(--store); }
svg .line.api { stroke: var(--api); } svg .area.store { fill: var(--store); opacity: .14; }
svg .area.api { fill: var(--api); opacity: .14; }
.item { white-space: nowrap; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .9em; }
"""
LEGEND = (
    ("--store", "writes to the store"),
    ("--api", "writes through the API"),
    ("--good", "works"),
    ("--warn", "partly, or without a leader"),
    ("--bad", "silent, failed"),
    ("--rule", "not known: the API did not answer"),
)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _mark(verdict: Verdict) -> str:
    if verdict.violations:
        return f'<span class="violated">&#10007; {verdict.violations} violations</span>'
    return '<span class="held">&#10003; held</span>'


def _overview(pairs: Sequence[tuple[Run, Verdict]]) -> str:
    rows = []
    for run, verdict in pairs:
        name = escape(run.scenario.name)
        numbers = (
            len(run.strikes),
            len(run.store_writes()),
            len(run.counters.writes),
            _seconds(verdict.gap),
            _seconds(verdict.back.all),
        )
        cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
        link = f'<a href="#{name}">{escape(run.scenario.title)}</a>'
        rows.append(f"<tr><td>{link}</td>{cells}<td>{_mark(verdict)}</td></tr>")
    head = "".join(
        f'<th class="n">{word}</th>'
        for word in ("faults", "writes to store", "writes to API", "no write for", "back after")
    )
    return f"<table><tr><th>scenario</th>{head}<th>verdict</th></tr>{''.join(rows)}</table>"


def _finding(finding: Finding) -> str:
    mark = '<span class="held">&#10003;</span>' if finding.holds else '<span class="violated">&#10007;</span>'
    broken = ""
    if finding.violations:
        shown = "\n".join(finding.violations[:SHOWN])
        more = len(finding.violations) - SHOWN
        tail = f"\nand {more} more" if more > 0 else ""
        broken = f"<pre>{escape(shown + tail)}</pre>"
    return (
        f"<tr><td>{mark}</td><td>{escape(finding.check)}</td><td>{escape(finding.meaning)}{broken}</td></tr>"
    )


def _strikes(run: Run) -> str:
    rows = "".join(
        f'<tr><td class="n">{one.asked - run.start:.1f} s</td><td>{escape(str(one))}</td>'
        f'<td class="n">{max(0.0, one.ended - one.began):.1f} s</td><td>{escape(one.error)}</td></tr>'
        for one in run.strikes
    )
    return (
        "<details><summary>Faults as they were injected</summary>"
        '<table><tr><th class="n">at</th><th>fault</th><th class="n">for</th><th></th></tr>'
        f"{rows}</table></details>"
    )


def _scenario(run: Run, verdict: Verdict) -> str:
    scenario = run.scenario
    back = ", ".join(f"{name} {_seconds(time)}" for name, time in verdict.back.parts.items())
    replay = f"hardway chaos run {scenario.name} --seed {run.seed}"
    return (
        f'<section id="{escape(scenario.name)}">'
        f"<h2>{escape(scenario.title)} <small>{_mark(verdict)}</small></h2>"
        f"<p>{escape(scenario.why)}</p>{timeline.draw(run)}"
        f'<p class="dim">After the last fault: {escape(back)}. '
        f"Longest time without an acknowledged write to the store: {_seconds(verdict.gap)}.</p>"
        f"<table>{''.join(_finding(finding) for finding in verdict.findings)}</table>"
        f'{_strikes(run)}<p class="dim">Again: <code>{escape(replay)}</code></p></section>'
    )


def page(title: str, pairs: Sequence[tuple[Run, Verdict]]) -> str:
    """The whole file."""
    violations = sum(verdict.violations for _, verdict in pairs)
    words = f"{violations} violations" if violations else "0 violations: everything held"
    kind = "violated" if violations else "held"
    legend = " ".join(
        f'<span class="item"><span class="key" style="background: var({colour})"></span>'
        f"{escape(meaning)}</span>"
        for colour, meaning in LEGEND
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Chaos: {escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>Chaos</h1><p class="dim">{escape(title)}</p><p class="{kind}"><strong>{words}</strong></p>'
        f'{_overview(pairs)}<p class="small">{legend}</p>'
        f"{''.join(_scenario(run, verdict) for run, verdict in pairs)}</body></html>\n"
    )
