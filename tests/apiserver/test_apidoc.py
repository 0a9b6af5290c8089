"""docs/api.md is what the scheme says, and claims nothing missing that is served."""

from __future__ import annotations

from apiserver import apidoc
from apiserver.kinds import SCHEME
from apiserver.rest.reviews import EXTRAS


def test_the_page_is_current() -> None:
    assert apidoc.PATH.read_text() == apidoc.document(), "run: python -m apiserver.apidoc --write"


def test_what_is_called_missing_is_missing() -> None:
    served = {(kind.api_version, kind.resource) for kind in SCHEME}
    served |= {(f"{extra.group}/{extra.version}", extra.resource) for extra in EXTRAS}
    assert not served & {(version, resource) for version, resource, _ in apidoc.NOT_SERVED}


def test_every_kind_has_a_row() -> None:
    rows = [line for line in apidoc.document().splitlines() if line.startswith("| ")]
    for kind in SCHEME:
        assert any(row.startswith(f"| {kind.resource} | {kind.kind} |") for row in rows), kind
