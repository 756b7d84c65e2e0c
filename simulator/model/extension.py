"""Loading a person's Python module that registers a cell or an architecture, and whether a model uses it."""

from collections.abc import Sequence
from pathlib import Path

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.extension.load import load_module, refuse_twice
from simulator.model.architectures import ARCHITECTURES
from simulator.model.cell import CELL_KINDS
from simulator.model.spec import ModelSpec

_GUIDE = "docs/guides/add_a_model.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExtension:
    """A loaded module, ``text`` as it was named, and the classes of cells and the readers that it brought."""

    text: str
    brought: frozenset[object]

    def is_used_by(self, model: ModelSpec) -> bool:
        """Whether the model was read, or has a cell, by what the module brought."""
        cells = {type(cell) for block in model.unique_blocks for cell in block.cells}
        return not self.brought.isdisjoint({*cells, ARCHITECTURES.get(model.architecture)})


def load_extension(file: str | Path) -> ModelExtension:
    """Import ``file`` for its registrations; raises ``UserError`` when it cannot be imported or has none."""
    before = {*CELL_KINDS.values(), *ARCHITECTURES.values()}
    loaded = load_module(file)
    known = {*CELL_KINDS.values(), *ARCHITECTURES.values()}
    # A module that Python had imported before registers nothing anew: what it holds is its own all the same.
    held = {id(value) for value in vars(loaded.module).values()}
    own = {value for value in known if id(value) in held and not value.__module__.startswith("simulator.")}
    brought = frozenset((known - before) | own)
    if not brought:
        raise UserError(f"{file}: registers neither an architecture nor a cell", hint=f"its two decorators: {_GUIDE}")
    return ModelExtension(text=str(file), brought=brought)


def load_extensions(files: Sequence[str | Path]) -> tuple[ModelExtension, ...]:
    """Import several; raises ``UserError`` where one is given twice, and as ``load_extension``."""
    refuse_twice(files)
    return tuple(load_extension(file) for file in files)


def refuse_unused(extensions: Sequence[ModelExtension], *models: ModelSpec) -> None:
    """Refuse an extension that no model has anything of; raises ``UserError``."""
    for extension in extensions:
        if not any(extension.is_used_by(model) for model in models):
            names = ", ".join(model.name for model in models)
            raise UserError(
                f"--extension {extension.text}: nothing of it is in {names}",
                hint="leave it out, or check the model_type of the config.json",
            )
