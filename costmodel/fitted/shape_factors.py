"""How much wider than usual the interval of a borrowed shape is, by what it has in common with measured ones.

    ln factor(shape) = apart(heads, or model) + rest(head size and window, or sharding)

Shapes that share either err alike: attention of the one head size that no other kernel serves, a model whose experts
are far smaller than all others. Both terms are learnt from the held-out errors of measured shapes
(`costmodel.fitting.like_shapes`); what no measured shape has adds nothing.
"""

from dataclasses import field

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term: ``values`` [groups, features] that shapes share, and their ``log_factor`` [groups, sizes]."""

    values: Array
    log_factor: Array

    def of(self, wanted: Array) -> Array:
        """Log factors [sizes] of a shape with these values, 0 where no group has them."""
        own = np.all(self.values == wanted, axis=1)
        return np.asarray(self.log_factor[int(np.argmax(own))] if own.any() else np.zeros(self.log_factor.shape[1]))


def no_term() -> Term:
    """Return a term that adds nothing to any shape."""
    return Term(values=np.zeros((0, 0)), log_factor=np.zeros((0, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeFactors:
    """The factors of one label, by class of size; none where its shapes have nothing in common."""

    apart: Term = field(default_factory=no_term)
    rest: Term = field(default_factory=no_term)

    @property
    def is_empty(self) -> bool:
        """Whether every shape has the same interval."""
        return not len(self.apart.values) and not len(self.rest.values)

    def of(self, apart: Array, rest: Array) -> Array:
        """Factors [sizes] of the interval of a shape of these values."""
        return np.asarray(np.exp(self.apart.of(apart) + self.rest.of(rest)))
