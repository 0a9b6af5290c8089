"""Kubernetes quantities: exact numbers with a suffix, in canonical form (`resource.Quantity`).

Three suffix families: binary SI (Ki ... Ei), decimal SI (n u m k M G T P E) and decimal exponents (e3). A
quantity keeps the family it was written in; canonical form has no fraction and the largest suffix that
allows that. Numbers finer than a nano-unit are rounded up, as there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, localcontext
from functools import lru_cache, total_ordering

FORMAT_ERROR = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
BINARY, DECIMAL, EXPONENT = "BinarySI", "DecimalSI", "DecimalExponent"

_PATTERN = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?([eE][+-]?\d+|[KMGTPE]i|[numkMGTPE]?)")
_DECIMAL_POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIXES = {power: suffix for suffix, power in _DECIMAL_POWERS.items()}
_BINARY_POWERS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_BINARY_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_NANO = Decimal("1e-9")
_WIDE = Context(prec=80)
_MAXIMUM = Decimal(2**63 - 1)
_EXPONENT_LIMIT = 400  # no input may make arithmetic expensive


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """An exact amount and the suffix family it is shown in. Equality and order look at the amount only."""

    amount: Decimal
    family: str = DECIMAL

    def value(self) -> int:
        """Whole units, rounded up."""
        return int(self.amount.to_integral_value(ROUND_CEILING, _WIDE))

    def milli(self) -> int:
        """Thousandths, rounded up."""
        return int((self.amount * 1000).to_integral_value(ROUND_CEILING, _WIDE))

    def __eq__(self, other: object) -> bool:
        return self.amount == other.amount if isinstance(other, Quantity) else NotImplemented

    def __lt__(self, other: Quantity) -> bool:
        return self.amount < other.amount

    def __hash__(self) -> int:
        return hash(self.amount)

    def __add__(self, other: Quantity) -> Quantity:
        family = other.family if self.amount == 0 else self.family
        return Quantity(_WIDE.add(self.amount, other.amount), family)

    def __sub__(self, other: Quantity) -> Quantity:
        family = other.family if self.amount == 0 else self.family
        return Quantity(_WIDE.subtract(self.amount, other.amount), family)

    def __str__(self) -> str:
        return _format(self)


ZERO = Quantity(Decimal(0))


def parse(text: str | int | float) -> Quantity:
    """Read a quantity; raises ValueError with Kubernetes' words when it is none."""
    return _parse(text if isinstance(text, str) else repr(text))


def canonical(text: str | int | float) -> str:
    """The canonical spelling of a quantity; raises ValueError."""
    return _canonical(text if isinstance(text, str) else repr(text))


@lru_cache(8192)
def _canonical(text: str) -> str:
    return str(_parse(text))


@lru_cache(8192)
def _parse(text: str) -> Quantity:
    found = _PATTERN.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        raise ValueError(FORMAT_ERROR)
    sign, whole, fraction, suffix = found[1], found[2] or "0", found[3] or "", found[4]
    with localcontext(_WIDE):
        number = Decimal(f"{sign}{whole}.{fraction or '0'}")
        if suffix in _BINARY_POWERS:
            amount, family = number * 2 ** _BINARY_POWERS[suffix], BINARY
        elif suffix in _DECIMAL_POWERS:
            amount, family = number.scaleb(_DECIMAL_POWERS[suffix]), DECIMAL
        else:
            power = int(suffix[1:])
            if abs(power) > _EXPONENT_LIMIT:
                raise ValueError(FORMAT_ERROR)
            amount, family = number.scaleb(power), EXPONENT
        return Quantity(_bounded(amount), family)


def _bounded(amount: Decimal) -> Decimal:
    """Nothing finer than a nano-unit (rounded away from zero), nothing beyond 2^63-1."""
    if abs(amount) > _MAXIMUM:
        return _MAXIMUM.copy_sign(amount)
    rounded = abs(amount).quantize(_NANO, ROUND_CEILING, _WIDE)
    return rounded.copy_sign(amount)


def _format(quantity: Quantity) -> str:
    amount = quantity.amount
    if amount == 0:
        return "0"
    whole = amount == amount.to_integral_value()
    if quantity.family == BINARY and whole and abs(amount) >= 1024:
        return _format_binary(int(amount))
    nano = int(amount.scaleb(9, _WIDE))
    power = -9
    # Go's canonical form moves in steps of 1000 as long as no digit is lost.
    while power < 18 and nano % 1000 == 0:
        nano //= 1000
        power += 3
    if quantity.family == EXPONENT:
        return f"{nano}e{power}" if power else str(nano)
    return f"{nano}{_DECIMAL_SUFFIXES[power]}"


def _format_binary(value: int) -> str:
    step = 0
    while step < len(_BINARY_SUFFIXES) - 1 and value % 1024 == 0:
        value //= 1024
        step += 1
    return f"{value}{_BINARY_SUFFIXES[step]}"
