"""Tables of text: columns line up, nothing is read out of a cell but its letters."""

from simulator.report.text_table import text_table


def test_columns_line_up_at_their_own_edge() -> None:
    """Columns named in ``left`` begin together, the others end together, two spaces apart, no line ends in a space."""
    assert text_table(["plan", "TTFT", ""], [["tp8", "12 ms", "a"], ["dp2-tp4", "1 s", ""]], left={"plan", ""}) == (
        "plan      TTFT\ntp8      12 ms  a\ndp2-tp4    1 s"
    )


def test_letters_take_the_places_a_terminal_gives_them() -> None:
    """East Asian letters are two places wide, a mark on a letter none, and a line break in a cell is a space."""
    assert text_table(["a", "b"], [["模型", "1"], ["e\u0301", "2"], ["x\ny", "3"]], left={"a"}) == (
        "a     b\n模型  1\ne\u0301     2\nx y   3"
    )


def test_a_cell_is_no_markup() -> None:
    """Brackets and colons are shown as they are: names of runs are a person's."""
    assert text_table(["run"], [["[bold]a[/bold] :smile:"]], left={"run"}) == "run\n[bold]a[/bold] :smile:"


def test_a_table_without_rows_is_its_head() -> None:
    """No row leaves the heads, no column leaves nothing."""
    assert text_table(["plan", "E2E"], [], left={"plan"}) == "plan  E2E"
    assert not text_table([], [], left=())
