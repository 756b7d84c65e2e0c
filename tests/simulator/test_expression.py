"""Expressions of a mapping compute what they say, and nothing of Python beyond them is understood."""

import pytest

from cluster_specs.errors import UserError
from simulator.validation.expression import Expression, Template, cell_value

_ROW = {"isl": 1000, "osl": 24, "gpus": 64, "tp": "8", "share": 0.5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("isl + osl + 200", 1224),
        ("(isl + 127) // 64 * 64", 1088),
        ("isqrt(gpus)", 8),
        ("max(isl, osl) * share", 500.0),
        ("isl > 999 and not osl >= 25", True),
        ("tp in ('4', '8')", True),
        ("10 < osl < 20", False),
        ("-osl % 10", 6),
    ],
)
def test_an_expression_computes_what_it_says(text: str, value: object) -> None:
    """Arithmetic, comparison and the few functions."""
    assert Expression.parse(text).of(_ROW) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "isl.real",
        "(lambda: 1)()",
        "[1][0]",
        "2 ** 9999999",
        "isl if osl else 1",
        "open('f')",
        "isl +",
        "f'{isl}'",
        "isl is 1",
        "max(isl, key=osl)",
        "(" * 400,
        "1 + " * 200 + "1",
    ],
)
def test_nothing_else_is_understood(text: str) -> None:
    """Attributes, calls, powers and whatever else a language has are refused when the mapping is read."""
    with pytest.raises(ValueError, match=r"understood|no expression|characters"):
        Expression.parse(text)


@pytest.mark.parametrize("text", ["isl // (osl - 24)", "tp + 1", "isl < tp"])
def test_a_value_that_cells_do_not_allow_names_them(text: str) -> None:
    """A division by zero or a text in a sum is the row's fault: the message shows its cells."""
    with pytest.raises(UserError, match="has no value where"):
        Expression.parse(text).of(_ROW)


def test_a_template_keeps_the_type_of_its_only_expression() -> None:
    """`{osl}` is a number, text around it makes a text; whole fractions are written as whole numbers."""
    assert Template.parse("{osl}").of(_ROW) == 24
    assert Template.parse("tp{isl / 500}-ep{tp}").of(_ROW) == "tp2-ep8"
    assert Template.parse("plain").of(_ROW) == "plain"
    with pytest.raises(ValueError, match="brace"):
        Template.parse("tp{isl")


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("8.0", 8), ("0.5", 0.5), ("0.5.9", "0.5.9"), ("", ""), ("nan", "nan")]
)
def test_cells_are_numbers_where_they_can_be(text: str, value: object) -> None:
    """Versions stay texts, and counts are counts however a table writes them."""
    assert cell_value(text) == value
    assert type(cell_value(text)) is type(value)
