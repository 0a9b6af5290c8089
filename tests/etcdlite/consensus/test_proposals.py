"""When a proposal is made, when it is made again, and when it must not be."""

from __future__ import annotations

import pytest

from etcdlite.consensus import proposals as module
from etcdlite.consensus.errors import ProposalDropped
from etcdlite.consensus.proposals import Proposal, Proposals


class Book:
    """Proposals that count as settled once they are in `done`."""

    def __init__(self, *data: bytes) -> None:
        self.done: set[bytes] = set()
        self.proposals = Proposals()
        for item in data:
            self.add(item)

    def add(self, data: bytes) -> None:
        self.proposals.add(Proposal(data, lambda: data in self.done))

    def take(self, term: int) -> list[bytes]:
        return [proposal.data for proposal in self.proposals.take(term)]


def test_what_waits_is_taken_once_and_in_order() -> None:
    book = Book(b"a", b"b")
    assert book.take(1) == [b"a", b"b"]
    assert book.take(1) == []


def test_what_is_settled_before_it_was_made_is_not_made() -> None:
    book = Book(b"a", b"b")
    book.done.add(b"a")
    assert book.take(1) == [b"b"]


@pytest.mark.parametrize(("applied_term", "again"), [(0, []), (1, []), (2, [b"a"]), (7, [b"a"])])
def test_only_a_later_term_shows_a_loss(applied_term: int, again: list[bytes]) -> None:
    book = Book(b"a")
    book.take(1)
    assert book.proposals.passed(applied_term) is bool(again)
    assert book.take(applied_term) == again


def test_what_is_lost_in_every_term_is_made_in_every_term() -> None:
    book = Book(b"a")
    for term in range(1, 5):
        assert book.take(term) == [b"a"]
        assert not book.proposals.passed(term)
        assert book.proposals.passed(term + 1)


def test_what_was_applied_meanwhile_is_not_lost() -> None:
    book = Book(b"a", b"b")
    book.take(1)
    book.done.add(b"a")
    assert book.proposals.passed(2)
    assert book.take(2) == [b"b"]
    assert not book.proposals.passed(2), "made in term 2 now"


def test_a_snapshot_ends_what_is_known() -> None:
    book = Book(b"a")
    book.take(1)
    book.add(b"b")
    book.proposals.forget()
    assert not book.proposals.passed(2)
    assert book.take(2) == [b"b"], "it was not made before the snapshot"


def test_what_did_not_leave_comes_before_what_waits() -> None:
    book = Book(b"a", b"b")
    [first, second] = book.proposals.take(1)
    book.add(b"c")
    book.done.add(b"b")
    book.proposals.unmade([first.data, second.data])
    assert book.take(1) == [b"a", b"c"]


def test_a_batch_is_bounded_and_so_is_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 10)
    monkeypatch.setattr(module, "WAITING_BYTES", 25)
    book = Book(b"a" * 6, b"b" * 6, b"c" * 12)
    with pytest.raises(ProposalDropped):
        book.add(b"dd")
    assert [book.take(1), book.take(1), book.take(1)] == [[b"a" * 6], [b"b" * 6], [b"c" * 12]]
    book.add(b"dd")


def test_what_is_settled_is_not_kept() -> None:
    book = Book()
    for number in range(5 * module._FEW):
        book.add(b"%d" % number)
        book.take(1)
        book.done.add(b"%d" % number)
    assert len(book.proposals._made) <= module._FEW
