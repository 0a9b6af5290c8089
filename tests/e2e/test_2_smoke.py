"""The checklist, with kubectl and with curl alone."""

from __future__ import annotations

import pytest

from tests.e2e.lab import Lab


@pytest.mark.parametrize("client", ["kubectl", "curl"])
def test_smoke(lab: Lab, client: str) -> None:
    text = lab.hardway("smoke", "--client", client, timeout=400)
    print(text)
    assert ", 0 failed" in text
