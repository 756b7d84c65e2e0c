"""Rules that give matrices their formats, and what all readers of quantisation sections share."""

import re
from collections.abc import Callable, Iterable
from typing import Final

from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.model.hf_config import HfConfig
from simulator.model.linear import WeightFormat
from simulator.model.quantisation.module_names import Matcher, MatrixName, any_of

UNQUANTISED_HINT: Final = "use the unquantised checkpoint's config.json"
_KEY_HINT: Final = "remove the key if it changes neither what is stored nor what is run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Matrices that ``matches`` names have ``format``; None leaves them alone."""

    matches: Matcher
    format: WeightFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """Rules in the order they are tried, and the format of matrices that none names; ``main`` is most matrices'."""

    main: WeightFormat
    rules: tuple[Rule, ...] = ()
    otherwise: WeightFormat | None = None
    unmatched: Callable[[MatrixName], Exception] | None = None  # raised for a matrix that no rule names

    def of(self, name: MatrixName) -> WeightFormat | None:
        """Format of one matrix; None = left alone."""
        for rule in self.rules:
            if rule.matches(name):
                return rule.format
        if self.unmatched is not None:
            raise self.unmatched(name)
        return self.otherwise


def uniform(main: WeightFormat, rules: Iterable[Rule]) -> Formats:
    """Give every matrix ``main`` that no rule names."""
    return Formats(main=main, rules=tuple(rules), otherwise=main)


def refuse_unknown(section: HfConfig, known: Iterable[str], what: str) -> None:
    """Refuse the first key that is set and neither read nor known to say nothing."""
    for key in section.keys():  # noqa: SIM118 - a config's own method, in file order
        if key in section and key not in known:
            raise section.fault(key, f"absent: no key of {what} that is understood here", hint=_KEY_HINT)


def left_alone(section: HfConfig, *keys: str) -> list[Rule]:
    """Rules for the lists of modules that a tool did not convert: names or parts of them, ``re:`` and globs."""
    return [Rule(matches=matcher(section, key, section.strings(key))) for key in keys if section.strings(key)]


def matcher(section: HfConfig, key: str, patterns: Iterable[str]) -> Matcher:
    """Match what ``key`` names; raises ``UserError`` for an expression that is none."""
    try:
        return any_of(pattern for pattern in patterns if pattern)
    except re.error as error:
        said = f"made of names and regular expressions; {shown(error.pattern)}: {error.msg}"
        raise section.fault(key, said) from error
    except (RecursionError, OverflowError) as error:
        raise section.fault(key, "made of names and regular expressions that can be compiled") from error


def head_rule(format_of_head: WeightFormat | None = None) -> Rule:
    """Engines leave the head alone unless the tool says that it converted it."""
    return Rule(matches=any_of(["lm_head"]), format=format_of_head)
