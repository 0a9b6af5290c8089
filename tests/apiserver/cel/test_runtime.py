"""Expressions with Kubernetes' libraries, and what the runtime's errors say."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.cel import libraries
from apiserver.cel.runtime import Failed, Unusable, available, compile_expression, evaluate

pytestmark = pytest.mark.skipif(not available(), reason="needs cel-expr-python")


def value(text: str, **given: Any) -> Any:
    return evaluate(compile_expression(text, tuple(sorted(given)), ("BOOL", "DYN", "STRING", "INT")), given)


@pytest.mark.parametrize(
    "text",
    [
        "quantity('1Gi').isGreaterThan(quantity('1023Mi'))",
        "quantity('500m').isLessThan(quantity('1'))",
        "quantity('1').compareTo(quantity('1000m')) == 0",
        "quantity('1').add(quantity('500m')).compareTo(quantity('1500m')) == 0",
        "quantity('3').sub(quantity('4')).sign() == -1",
        "quantity('2k').asInteger() == 2000 && !quantity('1m').isInteger()",
        "isQuantity('1Mi') && !isQuantity('x')",
        "[1, 2, 2].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && [3, 1].max() == 3",
        "'a12b3'.find('[0-9]+') == '12' && 'a12b3'.findAll('[0-9]+') == ['12', '3']",
        "'a12b3'.findAll('[0-9]+', 1) == ['12']",
    ],
)
def test_libraries(text: str) -> None:
    assert value(text) is True


def test_the_authorizer_is_asked_with_what_was_said() -> None:
    asked: list[Any] = []

    def decide(attributes: Any) -> tuple[bool, str]:
        asked.append(dict(attributes))
        return attributes["verb"] == "get", "because"

    text = "authorizer.group('apps').resource('deployments').namespace('n').name('x').check('get').allowed()"
    with libraries.deciding(decide):
        assert value(text, authorizer=libraries.AUTHORIZER) is True
        other = "authorizer.serviceAccount('n', 's').path('/healthz').check('post').allowed()"
        assert value(other, authorizer=libraries.AUTHORIZER) is False
        assert (
            value("authorizer.path('/x').check('get').reason()", authorizer=libraries.AUTHORIZER) == "because"
        )
    wanted = {"group": "apps", "resource": "deployments", "namespace": "n", "name": "x", "verb": "get"}
    assert wanted.items() <= asked[0].items()
    assert asked[1]["serviceAccount"] == "n:s" and asked[1]["path"] == "/healthz"


def test_errors_are_told_in_words() -> None:
    with pytest.raises(Failed, match="no such key: b"):
        value("a.b == 1", a={})
    with pytest.raises(Unusable, match="undeclared reference to 'c'"):
        compile_expression("c == 1", ("a",))
    with pytest.raises(Unusable, match="must evaluate to bool"):
        compile_expression("'text'", ())
