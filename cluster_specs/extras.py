"""What is installed only on request: an optional package that is missing ends in one message that names its extra."""

from importlib.util import find_spec

from cluster_specs.errors import UserError


def require_extra(extra: str, *modules: str, what: str) -> None:
    """Check that the packages behind ``modules`` are there, without importing them; raises ``UserError``.

    ``what`` is the work that needs them, as the subject of the message.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{what} needs {' and '.join(missing)}, which {are} not installed",
            hint=f"pip install 'apex-planner[{extra}]'",
        )
