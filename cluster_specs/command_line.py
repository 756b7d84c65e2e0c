"""What every command of `apex` does alike: options given once, JSON any parser reads, messages that fit a screen."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import click

from cluster_specs.errors import UserError
from cluster_specs.files.reading import is_file
from cluster_specs.files.shown import shown
from cluster_specs.files.whole import check_folder

_MOST_MESSAGE_CHARACTERS: Final = 1_200
_WORDS: Final = "cluster_specs.command_line.words"


class Command(click.Command):
    """A command that refuses a single-valued option given twice: the last one would win without a word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, once every option's occurrences have been counted; keep the words."""
        ctx.meta[_WORDS] = list(args)
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        seen: set[str] = set()
        for parameter in order:
            if not isinstance(parameter, click.Option) or parameter.multiple or parameter.count:
                continue
            if parameter.name in seen:
                raise click.UsageError(f"{_flags(parameter)} is given twice, may be given once", ctx)
            seen.add(str(parameter.name))
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group whose commands are of the class above."""

    command_class = Command


def _flags(option: click.Option) -> str:
    return "/".join([*option.opts, *option.secondary_opts])


def words_of(ctx: click.Context) -> list[str]:
    """Return the words of the command line that ``ctx`` was made of, behind the command's name."""
    return list(ctx.meta[_WORDS])


def given(ctx: click.Context, *names: str) -> list[str]:
    """Return the flags of those parameters (by name) that stand on the command line."""
    from click.core import ParameterSource

    options = {parameter.name: parameter for parameter in ctx.command.params}
    return [
        options[name].opts[0]
        for name in names
        if ctx.get_parameter_source(name) not in {ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP, None}
    ]


def refuse_given(ctx: click.Context, *names: str, because: str, hint: str = "") -> None:
    """Raise ``UserError`` for options on the command line that cannot act, for the reason stated."""
    flags = given(ctx, *names)
    if flags:
        raise UserError(f"{', '.join(flags)} cannot act: {because}", hint=hint or f"leave out {', '.join(flags)}")


def strict_json(document: Any, *, indent: int | None = 2, default: Callable[[Any], Any] | None = None) -> str:
    """Write JSON that every parser reads: a number that is not finite is null. ``default`` as in `json.dumps`."""
    try:
        return json.dumps(document, indent=indent, allow_nan=False, default=default)
    except ValueError:
        return json.dumps(_finite(document), indent=indent, allow_nan=False, default=default)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def screenful(message: str) -> str:
    """Return a message that fits a screen: the middle of a longer one is left out, and that is said."""
    if len(message) <= _MOST_MESSAGE_CHARACTERS:
        return message
    half = _MOST_MESSAGE_CHARACTERS // 2
    left_out = len(message) - 2 * half
    return f"{message[:half]} ... ({left_out} characters left out) ... {message[-half:]}"


def tell(error: UserError | click.ClickException) -> int:
    """Say on stderr what a person got wrong and what to do next; return the exit code."""
    if isinstance(error, UserError):
        click.echo(f"error: {screenful(str(error))}", err=True)
        if error.hint:
            click.echo(f"hint: {screenful(error.hint)}", err=True)
    elif isinstance(error, click.UsageError):
        click.UsageError(screenful(error.format_message()), ctx=error.ctx).show()
    else:
        click.ClickException(screenful(error.format_message())).show()
    return error.exit_code


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Refuse two outputs in one file, an output over an input, and a folder that cannot be written.

    Raises ``UserError``, for the folder ``OutputError``. Inputs are paths or texts that may be paths.
    """
    taken = [(_identity(Path(source)), "an input") for source in inputs if source is not None and is_file(source)]
    for path in outputs:
        if path is None:
            continue
        own = _identity(path)
        for other, role in taken:
            if own & other:
                raise UserError(f"{shown(str(path))} is {role}; no file is written over it", hint="name another file")
        taken.append((own, "written already"))
        check_folder(path)


def _identity(path: Path) -> frozenset[object]:
    """Return what makes two paths one file: the resolved name, and the file behind it where there is one."""
    try:
        resolved = path.resolve()
        found = resolved.stat()
    except FileNotFoundError:
        return frozenset({path.resolve()})
    except (OSError, ValueError):  # no path at all, as writing there will say
        return frozenset({path})
    return frozenset({resolved, (found.st_dev, found.st_ino)})
