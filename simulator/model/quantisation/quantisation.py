"""The quantisation of a checkpoint: the format of each of its matrices, and which are left alone.

Tools name matrices by name, regular expression, glob or class; the first rule that names a matrix decides. Matrices
that engines run as one (query, key and value; gate and up; all experts of a layer) must have one format, as engines
demand. What each tool writes is read in ``quantisation_methods``.
"""

from dataclasses import field
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.model.checkpoint_kv import quantisation_section
from simulator.model.hf_config import HfConfig
from simulator.model.linear import WeightFormat
from simulator.model.quantisation.methods import read_formats
from simulator.model.quantisation.module_names import MatrixName
from simulator.model.quantisation.rules import Formats

# The matrices of a module that go into one product, and the name of the product's matrix.
QKV: Final = (("q_proj", "k_proj", "v_proj"), "qkv_proj")
GATE_UP: Final = (("gate_proj", "up_proj"), "gate_up_proj")
_WHOLE: Final[dict[str, tuple[str, ...]]] = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "linear_attn": ("in_proj_qkvz", "out_proj"),
    "indexer": ("wq_b", "wk"),
    "experts": ("gate_proj", "up_proj", "down_proj"),
}
_MLP: Final = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """The format of every matrix of a checkpoint; ``dtype`` where none is named."""

    dtype: str
    formats: Formats | None = None
    place: str = ""
    known: dict[tuple[str, ...], WeightFormat] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scheme(self) -> str | None:
        """Scheme of the quantised matrices (of most of them), None when there are none."""
        return self.formats.main.scheme if self.formats else None

    def of(self, module: str) -> WeightFormat:
        """Format of a module whose matrices have one, by its path, for example ``model.layers.3.mlp.experts``."""
        kind = module.rpartition(".")[2]
        return self.matrix(module, *_WHOLE.get(kind, _MLP if module.count(".") > 1 else ("",)))

    def matrix(self, module: str, *leaves: str, fused: str = "") -> WeightFormat:
        """Format of the matrix that engines make of ``leaves`` of a module; raises ``UserError`` if they differ."""
        if self.formats is None:
            return WeightFormat(scheme=self.dtype)
        key = (module, *leaves)
        if key not in self.known:
            found = {leaf: self._format(MatrixName(module, leaf, fused)) for leaf in leaves}
            if len(set(found.values())) > 1:
                said = ", ".join(f"{leaf} {value.scheme}" for leaf, value in found.items())
                raise UserError(
                    f"{self.place}: {module} has matrices of different formats ({said}), but engines run them as one",
                    hint="compare with the checkpoint's published config.json",
                )
            self.known[key] = found[leaves[0]]
        return self.known[key]

    def _format(self, name: MatrixName) -> WeightFormat:
        assert self.formats is not None
        found = self.formats.of(name)
        return WeightFormat(scheme=self.dtype) if found is None else found


def read_quantisation(config: HfConfig, dtype: str) -> Quantisation:
    """Read ``quantization_config``; absent means unquantised."""
    section = quantisation_section(config)
    if section is None:
        return Quantisation(dtype=dtype)
    return Quantisation(dtype=dtype, formats=read_formats(section), place=section.place)
