"""One layer of a model: its cells in execution order."""

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Ints, Op
from simulator.model.cell import DEFAULT_KERNELS, AttentionTemplate, Cell, KernelChoices, StateCall, scans
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One layer: its cells in execution order."""

    cells: tuple[Cell, ...]

    def parameters(self) -> int:
        """Parameters of all cells."""
        return sum(cell.parameters() for cell in self.cells)

    def active_parameters(self) -> int:
        """Parameters one token meets."""
        return sum(cell.active_parameters() for cell in self.cells)

    def weight_bytes(self, plan: Plan) -> int:
        """Weights of one rank."""
        return sum(cell.weight_bytes(plan) for cell in self.cells)

    def kv_bytes_per_token(self, plan: Plan) -> float:
        """KV cache of one rank."""
        return sum(cell.kv_bytes_per_token(plan) for cell in self.cells)

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Ops of one rank whose cost depends on the token count alone."""
        return [op for cell in self.cells for op in cell.token_ops(plan, m, kernels)]

    def attention(self, plan: Plan) -> list[AttentionTemplate]:
        """Attention calls of one rank, batch left open."""
        return [call for cell in self.cells if (call := cell.attention(plan)) is not None]

    def scans(self, plan: Plan) -> list[StateCall]:
        """Return the scans of one rank, batch left open."""
        return [cell.scan(plan) for cell in self.cells if scans(cell)]


def distinct(blocks: list[Block]) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """Return unique blocks in order of first occurrence, and each layer's index among them."""
    index: dict[Block, int] = {}
    layers = tuple(index.setdefault(block, len(index)) for block in blocks)
    return tuple(index), layers
