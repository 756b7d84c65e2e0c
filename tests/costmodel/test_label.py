"""A label has one text form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.ops.label import Label

PART = st.text(st.characters(codec="utf-8", exclude_characters="|@"), max_size=8)


@given(st.lists(PART, min_size=1, max_size=4), st.none() | st.integers(0, 5000))
def test_a_label_is_read_back_from_its_text(parts: list[str], clock_mhz: int | None) -> None:
    """Parts and clock survive the text, and equal texts are equal labels."""
    label = Label(tuple(parts), clock_mhz)
    found = Label.parse(label.text)
    assert (found.parts, found.clock_mhz) == (label.parts, label.clock_mhz)
    assert found == label
    assert found.at(None).parts == label.parts


@pytest.mark.parametrize("text", ["bf16@", "bf16@x", "bf16@1410.5", "bf16@-1", "bf16@01410", "bf16@1@2"])
def test_a_clock_that_is_no_whole_number_is_refused(text: str) -> None:
    """What stands after the @ is whole MHz, written one way."""
    with pytest.raises(ValueError, match="whole number of MHz"):
        Label.parse(text)


def test_labels_stand_in_the_order_of_their_texts() -> None:
    """Fits list labels as their texts sort."""
    texts = ["bf16|aligned", "bf16|aligned@1005", "bf16|aligned@810", "bf16|ragged", "fp8|aligned"]
    assert [label.text for label in sorted(map(Label.parse, reversed(texts)))] == texts
