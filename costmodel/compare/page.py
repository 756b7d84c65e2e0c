"""One self-contained HTML page of tables and figures (SVG inside the page); nothing is loaded from elsewhere."""

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cluster_specs.files.whole import make_folder, write_text, write_whole
from cluster_specs.lazy_dataclass import dataclass
from costmodel.compare.tables import cell, heading, is_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PNG_DOTS_PER_INCH: Final = 120
_NO_METADATA: Final = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #eee; }
th { border-bottom: 1px solid #888; } td.text, th.text { text-align: left; }
figure { margin: 1.2rem 0; } figcaption { color: #444; max-width: 60rem; } svg { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFigure:
    """A figure with the stem of its file and a sentence on how to read it."""

    name: str
    caption: str
    figure: "Figure"


def figure_name(*parts: str) -> str:
    """Return the stem of a figure's file from words and labels."""
    return "_".join(parts).replace("|", "_").replace("@", "_at_").replace(".", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, remarks, a table (rows of equal keys) and figures, each of which may be empty."""

    title: str
    remarks: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    figures: Sequence[NamedFigure] = ()


def write_page(folder: Path, title: str, sections: Iterable[Section]) -> list[Path]:
    """Write ``index.html`` and one PNG per figure into ``folder``; return the files. Raises ``OutputError``."""
    make_folder(folder)
    written, parts = [], [f"<h1>{html.escape(title)}</h1>"]
    classes: dict[str, str] = {}
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(remark)}</p>" for remark in section.remarks]
        if section.rows:
            parts.append(_table(section.rows))
        for named in section.figures:
            path = folder / f"{named.name}.png"
            write_whole(path, partial(named.figure.savefig, format="png", dpi=_PNG_DOTS_PER_INCH))
            named.figure.set_layout_engine("none")  # placed once is enough
            written.append(path)
            parts.append(
                f"<figure>{_svg(named, classes)}<figcaption>{html.escape(named.caption)}</figcaption></figure>"
            )
    page = folder / "index.html"
    styles = _STYLE + "".join(f".{name} {{ {style} }}\n" for style, name in classes.items())
    write_text(
        page,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{styles}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n",
    )
    return [page, *written]


def _svg(named: NamedFigure, classes: dict[str, str]) -> str:
    """Return a figure as an element of the page; ``classes`` collects the styles it uses, by their text."""
    buffer = io.StringIO()
    # Element ids are derived from the salt: figures on one page must not share them.
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": named.name, "svg.fonttype": "none"}):
        named.figure.savefig(buffer, format="svg", dpi=_PNG_DOTS_PER_INCH, metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Most of what matplotlib writes repeats styles, numbers its elements, indents, and has digits nobody sees.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r' style="([^"]*)"', lambda found: f' class="{_class(found[1], classes)}"', text)
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d{3})\d+", r"\1", tag[0]), text)
    return re.sub(r"\n\s*", "\n", text)


def _class(style: str, classes: dict[str, str]) -> str:
    return classes.setdefault(style, f"f{len(classes)}")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    css = {name: ' class="text"' if is_text(rows, name) else "" for name in columns}
    lines = ["".join(f"<th{css[name]}>{html.escape(heading(name))}</th>" for name in columns)]
    lines += ["".join(f"<td{css[name]}>{html.escape(cell(name, row[name]))}</td>" for name in columns) for row in rows]
    return '<div class="scroll"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"
