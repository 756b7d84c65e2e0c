"""JSON as every reader takes it: one error with its place for whatever the parser or the interpreter refuses."""

import json
from typing import Any

from cluster_specs.errors import UserError


def parse_json(text: str | bytes, place: str, *, hint: str = "") -> Any:
    """Parse one JSON document; ``place`` (file, or file:line) leads the ``UserError`` for anything it is not.

    Text that is not UTF-8, nesting beyond the parser's depth, and numbers of more digits than Python reads are errors
    of the file like any other.
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 text: {error.reason}", hint=hint) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error}", hint=hint) from error
    except RecursionError as error:
        raise UserError(f"{place}: not usable JSON: nested too deeply", hint=hint) from error
    except ValueError as error:  # the interpreter's limit on the digits of an integer
        raise UserError(f"{place}: not usable JSON: a number has too many digits", hint=hint) from error
