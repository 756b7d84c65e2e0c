"""Names of matrices in a checkpoint, and the patterns quantisation tools name them by.

Families spell the same matrix differently (``self_attn.o_proj``, ``attention.wo``, ``mlp.experts.3.w2``), and wrappers
put roots before it. Names are compared in one spelling; regular expressions and globs are tried on the spellings that
checkpoints have. A matrix that engines fuse from several (``qkv_proj``) answers to its own name and to theirs.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from itertools import pairwise
from typing import Final

_ROOTS: Final = frozenset({"backbone", "model", "language_model", "transformer", "decoder"})
_SPELLED_ROOTS: Final = ("model.", "model.language_model.", "language_model.model.", "backbone.")
_CONTAINERS: Final = {
    "attention": "self_attn",
    "attn": "self_attn",
    "feed_forward": "mlp",
    "block_sparse_moe": "mlp",
    "ffn": "mlp",
    "shared_experts": "shared_expert",
    "h": "layers",
}
_LEAVES: Final = {
    "w1": "gate_proj",
    "w3": "up_proj",
    "w2": "down_proj",
    "w13": "gate_up_proj",
    "wo": "o_proj",
    "wqkv": "qkv_proj",
    "query_key_value": "qkv_proj",
    "c_attn": "qkv_proj",
    "c_fc": "up_proj",
    "fc1": "up_proj",
    "dense_h_to_4h": "up_proj",
    "fc2": "down_proj",
    "dense_4h_to_h": "down_proj",
    "in_proj_qkv": "in_proj_qkvz",
    "in_proj_z": "in_proj_qkvz",
    "fused_qkv_a_proj": "qkv_a_proj",
}
_OUTPUTS: Final = frozenset({"dense", "c_proj", "out_proj"})  # of attention and MLP alike, but for linear attention
# How regular expressions may find a container or leaf spelled.
_SPELLINGS: Final = {
    ".mlp.experts.": (".block_sparse_moe.experts.",),
    ".mlp.": (".feed_forward.",),
    ".self_attn.": (".attention.", ".attn."),
    ".shared_expert.": (".shared_experts.",),
}
_LEAF_SPELLINGS: Final = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2", "o_proj": "wo", "qkv_proj": "wqkv"}

_MOST_REPEATS: Final = 6  # each may multiply the time by the length of a name
_MOST_CHARACTERS: Final = 1000

Matcher = Callable[["MatrixName"], bool]


def canonical(name: str) -> str:
    """Return the one spelling of a module's name: without roots, ``.weight`` and number of the expert."""
    parts = [part for part in name.strip(".").removesuffix(".weight").removesuffix(".qweight").split(".") if part]
    while parts and parts[0] in _ROOTS:
        parts = parts[1:]
    found: list[str] = []
    for part in parts:
        container = _CONTAINERS.get(part, part)
        if found and found[-1] == "experts" and part.isdigit():
            continue
        if part in _OUTPUTS and found and found[-1] in {"self_attn", "mlp"}:
            container = "o_proj" if found[-1] == "self_attn" else "down_proj"
        found.append(_LEAVES.get(part, container))
    return ".".join(found)


class MatrixName:
    """One matrix (``layers.3.self_attn.q_proj``), and the name of the matrix that engines fuse it into."""

    __slots__ = ("modules", "path", "runs", "spelled")

    def __init__(self, module: str, leaf: str, fused: str = "") -> None:
        self.path = canonical(f"{module}.{leaf}" if leaf else module)
        names = (self.path, canonical(f"{module}.{fused}")) if fused else (self.path,)
        self.spelled = frozenset(spelled for name in names for spelled in _spellings(name))
        # The matrix, every module it is in, and every part of its path (``self_attn``), in the one spelling.
        self.runs = frozenset(run for name in names for run in _runs(name))
        self.modules = frozenset(part for name in self.spelled for part in _ancestors(name))


def any_of(patterns: Iterable[str]) -> Matcher:
    """Match what one of ``patterns`` names: names or parts of them, expressions (``re:``), and globs as of files.

    Expressions match from the start of a name, as ``re.match`` does. Raises ``re.error``.
    """
    given = list(patterns)
    expressions = _joined([pattern[3:] for pattern in given if pattern.startswith("re:")])
    others = [pattern for pattern in given if not pattern.startswith("re:")]
    globs = [translate(pattern.removesuffix(".weight")) for pattern in others if "*" in pattern]
    glob = re.compile("|".join(globs)) if globs else None
    names = frozenset(canonical(pattern) for pattern in others if "*" not in pattern)

    def matches(matrix: MatrixName) -> bool:
        if not names.isdisjoint(matrix.runs):
            return True
        if glob is not None and any(glob.match(name) for name in matrix.modules):
            return True
        return any(expression.match(name) for expression in expressions for name in matrix.spelled)

    return matches


def _may_not_end(expression: str) -> bool:
    """Whether matching may take exponential time: a repeated group that repeats or branches, or many open repeats."""
    ambiguous = [False]  # per open group: it repeats or branches
    repeats = 0
    plain = re.sub(r"\\.|\[\]?[^\]]*\]|\(\?[:=!<a-zA-Z]+", lambda found: "(" if found[0][0] == "(" else "x", expression)
    for here, following in pairwise(plain + " "):
        if here == "(":
            ambiguous.append(False)
        elif here == ")" and len(ambiguous) > 1:
            inner = ambiguous.pop()
            if inner and following in "*+{":
                return True
            ambiguous[-1] |= inner
        elif here in "*+{|":
            ambiguous[-1] = True
            repeats += here in "*+{"
    return repeats > _MOST_REPEATS or len(expression) > _MOST_CHARACTERS


def _joined(expressions: list[str]) -> list[re.Pattern[str]]:
    """Compile expressions, as one where groups and flags of each could not change the others: lists have hundreds."""
    for expression in expressions:
        if _may_not_end(expression):
            raise re.error("repeats of repeats may never end", expression)
    each = [re.compile(expression) for expression in expressions]
    plain = [item.pattern for item in each if not item.groups and "(?" not in item.pattern]
    rest = [item for item in each if item.groups or "(?" in item.pattern]
    return [re.compile("|".join(f"(?:{pattern})" for pattern in plain)), *rest] if plain else rest


def _runs(path: str) -> Iterator[str]:
    parts = path.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:end])


def _ancestors(name: str) -> Iterator[str]:
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        if name.count(".") >= 3:  # model.layers.3.self_attn: anything above would be a whole layer by accident
            yield name


def _spellings(path: str) -> Iterator[str]:
    """Names a checkpoint may have for a canonical path; experts are numbered."""
    bodies = {path, path.replace(".experts.", ".experts.0.", 1), path.removesuffix(".*")}
    for own, others in _SPELLINGS.items():
        bodies |= {body.replace(own, other, 1) for body in bodies for other in others if own in body}
    for body in sorted(bodies):
        head, _, leaf = body.rpartition(".")
        for name in {leaf, _LEAF_SPELLINGS.get(leaf, leaf)}:
            whole = f"{head}.{name}" if head else name
            if not whole.startswith("layers."):
                yield whole
                continue
            for root in _SPELLED_ROOTS:
                yield root + whole
            if ".experts." in whole:
                yield _SPELLED_ROOTS[0] + whole.partition(".experts.")[0] + ".experts"
