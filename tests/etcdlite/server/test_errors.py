"""Every error has a code on the wire, the real etcd's text, and a meaning for the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from componentbase.grpcwire.status import Code
from etcdlite.consensus import errors as consensus
from etcdlite.mvcc.errors import StoreError
from etcdlite.server import errors


def _all(kind: type[StoreError]) -> Iterator[type[StoreError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _all(each)


def test_every_error_is_mapped() -> None:
    assert set(_all(StoreError)) == set(errors.WIRE)


def test_every_error_has_a_text_of_its_own() -> None:
    texts = [kind.text for kind in errors.WIRE]
    assert len(set(texts)) == len(texts)
    assert all(
        text.startswith(("etcdserver: ", "etcdlite: ", "auth: ", "election: ", "mutex: ", '"leader" '))
        for text in texts
    )


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (consensus.NoLeader(), "etcdserver: no leader"),
        (consensus.TooLarge(), "etcdserver: request is too large"),
        (consensus.Stopped(), "etcdserver: server stopped"),
        (consensus.DeadlineExceeded(), "etcdserver: request timed out"),
        (consensus.BadChange("member not found"), "etcdserver: member not found"),
        (consensus.BadChange("peerURL exists"), "etcdserver: Peer URLs already exists"),
    ],
)
def test_what_consensus_raises(raised: consensus.ConsensusError, text: str) -> None:
    assert errors.from_consensus(raised).text == text


def test_unsupported_is_named() -> None:
    refusal = errors.NotSupported("Auth/UserAdd")
    assert refusal.text == "etcdlite: Auth/UserAdd is not supported"
    assert errors.WIRE[type(refusal)] is Code.UNIMPLEMENTED
