"""A search as one JSON document: what the terminal says of it, and every plan. Pages and other tools are made of it."""

from typing import TYPE_CHECKING, Any

from simulator.report.search_answer import answer_lines, headline

if TYPE_CHECKING:
    from simulator.search.search_result import SearchResult
    from simulator.serving import Serving
    from simulator.workload.parts import Traffic


def search_document(found: "SearchResult", serving: "Serving", workload: "Traffic") -> dict[str, Any]:
    """Return the search as plain values; docs/reference/outputs.md documents every key."""
    facts = found.to_json()
    return {
        "schema": facts.pop("schema"),
        "headline": headline(found, serving, workload),
        "answer": answer_lines(found),
        **facts,
    }
