"""Members shared by the tests of a module: starting one costs half a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.etcdlite.server import members


@pytest.fixture(scope="module", params=members.KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The client URL of a member, once of etcdlite and once of the real etcd."""
    if not members.installed(request.param):
        pytest.skip("etcd is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    with members.running(request.param, folder) as member:
        yield member.client_url


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The client URLs of one member of each kind."""
    if not members.installed("etcd"):
        pytest.skip("etcd is not installed")
    folder = tmp_path_factory.mktemp("both")
    (folder / "ours").mkdir()
    (folder / "real").mkdir()
    with (
        members.running("etcdlite", folder / "ours") as ours,
        members.running("etcd", folder / "real") as real,
    ):
        yield ours.client_url, real.client_url
