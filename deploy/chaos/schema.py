"""A scenario: steady work, a schedule of faults, and what must hold. One YAML file; pure.

    name: leader-killed                  file name without .yaml
    title: The store's leader is killed every few seconds
    why: |                               what it shows, for the report
    seed: 1                              optional
    length: 20s                          how long the schedule runs; recovery is waited for afterwards
    workload: {storeClients: 4, apiWriters: 3, replicas: 3, toleration: 5s}      all optional
    prepare: [...]                       faults put in force before the work begins, for as long as it lasts
    faults:
      - {at: 2s, fault: kill, target: leader/etcdlite, every: 4s, times: 4}
      - {at: 2s, fault: partition, target: minority, for: 10s, with: {direction: in}}
      - {at: 2s, fault: power-off, target: any-worker, for: 120s, until: pods-moved}
    expect:                              beyond ALWAYS
      - writes-continue

Everything that cannot be is refused with the field's path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from componentbase.flags import parse_duration
from deploy.chaos import targets
from deploy.chaos.catalogue import FAULTS, CatalogueError, Entry, Value

SCENARIOS = Path(__file__).parent / "scenarios"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")

# What is checked in every scenario, and what one may ask for on top. Names and meanings, for the report.
ALWAYS: Mapping[str, str] = {
    "acknowledged": "no acknowledged write was lost, in the store and through the API",
    "linearizable": "every answer agrees with one order of all requests",
    "watches": "watches saw every change once and in order",
    "bound-once": "no pod was bound to two nodes",
    "recovered": "after the last fault: members agree, writes go through, Deployment whole, Service answers",
}
ASKED: Mapping[str, str] = {
    "writes-continue": "the store acknowledged writes while each fault was in force",
    "no-quorum-no-write": "no write that began after the fault was in force was acknowledged before its end",
    "service-continues": "the Service was answered on every worker that was up while each fault was in force",
    "pods-moved": "the Deployment became whole on other nodes while the fault was in force",
    "pods-stay": "no pod of the Deployment was evicted",
}
# Conditions that end a fault early, before its `for` is over.
UNTIL = ("pods-moved",)


class ScenarioError(ValueError):
    """A scenario that cannot be run; the message begins with the field's path."""


@dataclass(frozen=True)
class Work:
    """The steady load. `toleration` is how long (seconds) the Deployment's pods bear a node that is gone."""

    store_clients: int = 4
    store_keys: int = 6
    api_writers: int = 3
    replicas: int = 3
    toleration: int = 5
    pause: float = 0.08


@dataclass(frozen=True)
class Step:
    """One line of the schedule. Times are seconds since the work became steady."""

    at: float
    fault: str
    target: str
    duration: float | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    every: float = 0.0
    times: int = 1
    until: str | None = None

    @property
    def entry(self) -> Entry:
        return FAULTS[self.fault]

    @property
    def ends(self) -> float:
        """The latest time at which it is in force."""
        return self.at + self.every * (self.times - 1) + (self.duration or 0.0)


@dataclass(frozen=True)
class Scenario:
    """A whole file."""

    name: str
    title: str
    why: str
    length: float
    steps: tuple[Step, ...]
    expect: tuple[str, ...] = ()
    prepare: tuple[Step, ...] = ()
    work: Work = Work()
    seed: int = 1

    @property
    def checks(self) -> tuple[str, ...]:
        return (*ALWAYS, *self.expect)


class _Fields:
    """A mapping: hands out typed fields and refuses, by path, what was not asked for."""

    def __init__(self, path: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise ScenarioError(f"{path or 'the scenario'}: must be a mapping")
        self.path, self.value, self.seen = path, value, set[str]()

    def where(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def take(self, key: str, default: Any = ...) -> Any:
        self.seen.add(key)
        if key in self.value:
            return self.value[key]
        if default is ...:
            raise ScenarioError(f"{self.where(key)}: required")
        return default

    def text(self, key: str, default: Any = ...) -> str:
        value = self.take(key, default)
        if not isinstance(value, str) or (not value and default is ...):
            raise ScenarioError(f"{self.where(key)}: must be a text")
        return value

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        value = self.take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ScenarioError(f"{self.where(key)}: must be a whole number from {least} to {most}")
        return value

    def seconds(self, key: str, default: Any = ...) -> float:
        value = self.take(key, default)
        if value is default:
            return float(value)
        try:
            seconds = parse_duration(str(value))
        except ValueError:
            raise ScenarioError(
                f"{self.where(key)}: {value!r} is not a duration such as 10s or 1m30s"
            ) from None
        if seconds < 0:
            raise ScenarioError(f"{self.where(key)}: must not be negative")
        return seconds

    def items(self, key: str, default: Any = ...) -> list[Any]:
        value = self.take(key, default)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ScenarioError(f"{self.where(key)}: must be a list")
        return list(value)

    def done(self) -> None:
        for key in self.value:
            if key not in self.seen:
                raise ScenarioError(f"{self.where(str(key))}: unknown field")


def _step(path: str, value: object, *, scheduled: bool) -> Step:
    fields = _Fields(path, value)
    fault = fields.text("fault")
    if fault not in FAULTS:
        raise ScenarioError(f"{path}.fault: no fault is called {fault!r} (there are {', '.join(FAULTS)})")
    target = fields.text("target")
    try:
        targets.check(target)
    except targets.TargetError as error:
        raise ScenarioError(f"{path}.target: {error}") from None
    given = fields.take("with", {})
    if not isinstance(given, Mapping):
        raise ScenarioError(f"{path}.with: must be a mapping")
    try:
        values = FAULTS[fault].values(given)
    except CatalogueError as error:
        raise ScenarioError(f"{path}.with: {error}") from None
    if not scheduled:
        fields.done()
        return Step(0.0, fault, target, values=values)
    step = _times(fields, Step(fields.seconds("at"), fault, target, values=values))
    fields.done()
    return step


def _times(fields: _Fields, step: Step) -> Step:
    """When and how often; refuses what contradicts itself."""
    duration = fields.seconds("for") if "for" in fields.value else None
    every, times = fields.seconds("every", 0.0), fields.whole("times", 1, 1, 1000)
    until = fields.text("until", "") or None
    if duration is None and step.entry.lasting:
        raise ScenarioError(f"{fields.where('for')}: required, since {step.fault} lasts until it is undone")
    if duration == 0.0:
        raise ScenarioError(f"{fields.where('for')}: must be longer than nothing")
    if times > 1 and not every:
        raise ScenarioError(f"{fields.where('every')}: required with `times`")
    if every and times == 1:
        raise ScenarioError(f"{fields.where('times')}: required with `every`")
    if until is not None and until not in UNTIL:
        raise ScenarioError(f"{fields.where('until')}: {until!r} is not one of {', '.join(UNTIL)}")
    if until is not None and (duration is None or times > 1):
        raise ScenarioError(f"{fields.where('until')}: needs `for` as its limit, and no `times`")
    return Step(step.at, step.fault, step.target, duration, step.values, every, times, until)


def _work(value: object) -> Work:
    fields = _Fields("workload", value)
    usual = Work()
    work = Work(
        store_clients=fields.whole("storeClients", usual.store_clients, 1, 64),
        store_keys=fields.whole("storeKeys", usual.store_keys, 2, 64),
        api_writers=fields.whole("apiWriters", usual.api_writers, 1, 32),
        replicas=fields.whole("replicas", usual.replicas, 1, 50),
        toleration=int(fields.seconds("toleration", usual.toleration)),
        pause=fields.seconds("pause", usual.pause),
    )
    fields.done()
    return work


def _expect(fields: _Fields) -> tuple[str, ...]:
    names = [str(name) for name in fields.items("expect", [])]
    for index, name in enumerate(names):
        if name in ALWAYS:
            raise ScenarioError(f"expect[{index}]: {name} holds in every scenario; it need not be asked for")
        if name not in ASKED:
            raise ScenarioError(f"expect[{index}]: {name!r} is not one of {', '.join(ASKED)}")
        if names.index(name) != index:
            raise ScenarioError(f"expect[{index}]: {name} appears twice")
    return tuple(names)


def _steps(fields: _Fields, key: str, default: Any = ..., *, scheduled: bool) -> Iterator[Step]:
    for index, value in enumerate(fields.items(key, default)):
        yield _step(f"{key}[{index}]", value, scheduled=scheduled)


def parse(document: object) -> Scenario:
    """A scenario from a file's content. Raises ScenarioError."""
    fields = _Fields("", document)
    name = fields.text("name")
    if not NAME.fullmatch(name):
        raise ScenarioError(f"name: {name!r} must be a lower-case label of at most 40 characters")
    scenario = Scenario(
        name=name,
        title=fields.text("title"),
        why=fields.text("why", "").strip(),
        length=fields.seconds("length"),
        steps=tuple(_steps(fields, "faults", scheduled=True)),
        expect=_expect(fields),
        prepare=tuple(_steps(fields, "prepare", [], scheduled=False)),
        work=_work(fields.take("workload", {})),
        seed=fields.whole("seed", 1, 0, 2**31 - 1),
    )
    fields.done()
    if not scenario.steps:
        raise ScenarioError("faults: at least one is needed")
    for index, step in enumerate(scenario.steps):
        if step.at + step.every * (step.times - 1) > scenario.length:
            raise ScenarioError(f"faults[{index}].at: begins after `length` ({scenario.length:g} s) is over")
    return scenario


def load(path: Path) -> Scenario:
    """Read one file. Raises ScenarioError (with the file's name), OSError."""
    try:
        scenario = parse(yaml.safe_load(path.read_bytes()))
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: not YAML: {error}") from error
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None
    if path.stem.lstrip("0123456789-") != scenario.name:
        raise ScenarioError(f"{path}: name: {scenario.name!r} is not the file's")
    return scenario


def shipped() -> list[Scenario]:
    """The scenarios that come with Hardway, in the order of their file names."""
    return [load(path) for path in sorted(SCENARIOS.glob("*.yaml"))]


def find(name: str) -> Scenario:
    """A shipped scenario by name, or a file by path. Raises ScenarioError, OSError."""
    if name.endswith((".yaml", ".yml")):
        return load(Path(name))
    known = {scenario.name: scenario for scenario in shipped()}
    if name not in known:
        raise ScenarioError(f"no scenario is called {name!r} (there are {', '.join(known)})")
    return known[name]
