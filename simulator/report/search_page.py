"""The answer of a search as one file that loads nothing: what the terminal says, every plan drawn, listed and in full.

It is made from the JSON of the search alone, so that a saved result can be shown at any time (`apex report`).
"""

import base64
import gzip
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from cluster_specs.command_line import strict_json
from cluster_specs.extras import require_extra
from cluster_specs.files.whole import write_text
from simulator.report.page_data import page_data
from simulator.report.search_answer import refusal_lines

# In the order in which one needs the other.
_SCRIPTS: Final = ("plans.js", "scatter.js", "table.js", "detail.js", "page.js")
_LEVEL: Final = 6  # of gzip: 9 takes twice as long for a hundredth less
_LIBRARIES: Final = ("bokeh.min.js", "bokeh-api.min.js")


def require_page(what: str) -> None:
    """Check that a page can be made, before the work is done; raises ``UserError``. ``what`` asks for it."""
    require_extra("report", "bokeh", "jinja2", what=what)


def write_search_page(path: Path, result: Mapping[str, Any]) -> None:
    """Write the page of a search's JSON (`apex search --json`); raises ``OutputError``."""
    write_text(path, search_page(result))


def search_page(result: Mapping[str, Any]) -> str:
    """Return the page of a search's JSON as text."""
    from jinja2 import Environment, StrictUndefined

    refused = [(refusal["plan"], refusal["reason"]) for refusal in result["rejected"]]
    page = files("simulator.report") / "page"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    frame = environment.from_string((page / "frame.html").read_text(encoding="utf-8"))
    return frame.render(
        headline=result["headline"],
        answer=_parted(result["answer"]),
        plans=f"Plans ({len(result['plans'])})" if result["plans"] else "",
        refused={"title": f"Refused ({len(refused)})", "lines": list(refusal_lines(refused))} if refused else None,
        notes=result["notes"],
        style=(page / "page.css").read_text(encoding="utf-8"),
        data=packed(page_data(result)),
        libraries=[_library(name) for name in _LIBRARIES],
        script="\n".join((page / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    )


def packed(data: Mapping[str, Any]) -> str:
    """Return values as gzipped JSON in base64, a thirteenth of their length as text; `gzip -d` reads it, too."""
    text = strict_json(data, indent=None)
    return base64.b64encode(gzip.compress(text.encode(), _LEVEL, mtime=0)).decode("ascii")


def _parted(answer: list[str]) -> dict[str, Any]:
    """Part the answer's sentences from the command at its end."""
    start = next((place for place, line in enumerate(answer) if line == "start it with:"), len(answer))
    command = "\n".join(line.removeprefix("  ") for line in answer[start + 1 :])
    return {"sentences": answer[: start + 1], "command": command}


def _library(name: str) -> str:
    """Return one of the scripts that Bokeh's package carries."""
    text = (files("bokeh") / "server" / "static" / "js" / name).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script")
