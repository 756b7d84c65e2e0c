"""What a search found: its plans in their lists, and what is known of each only beside the others."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import field
from typing import Any

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.plan.plan import Plan
from simulator.pools.layouts import Outcome
from simulator.results.objective import Limit, Objective, Slo, read_metric
from simulator.results.risk import chance_of_keeping
from simulator.search.paired import Versus
from simulator.serving import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Plans best first, those that change the model's answers, those that break a limit, and the refused ones."""

    ranked: tuple[Outcome, ...]
    breaking: tuple[tuple[Outcome, tuple[Limit, ...]], ...]
    refused: tuple[Refusal, ...]
    objective: Objective
    slo: Slo
    changing: tuple[Outcome, ...] = ()  # keep every limit, in formats coarser than the checkpoint's; best first
    inputs: dict[str, Any] = field(default_factory=dict)
    further: tuple[Objective, ...] = ()  # objectives beside the first: plans that none beats in all come first
    made_by: dict[str, Any] = field(default_factory=dict)  # the command, and digests of what it read
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # coarser formats, by plan that has some
    usual: Plan | None = None  # what people choose without a search; None where plans were stated
    notes: list[str] = field(default_factory=list)  # what was decided for the user, and what prices rest on
    versus_best: Mapping[str, Versus] = field(
        default_factory=dict
    )  # by plan: next ones that intervals do not tell apart

    @property
    def simulated(self) -> tuple[Outcome, ...]:
        """Every plan that ran: those ranked, those that change the model's answers, those that break a limit."""
        return (*self.ranked, *self.changing, *(result for result, _ in self.breaking))

    @property
    def best(self) -> Outcome | None:
        """The plan to start: one that changes the model's answers only where no other keeps every limit."""
        return next(iter((*self.ranked, *self.changing)), None)

    @property
    def front(self) -> tuple[Outcome, ...]:
        """The ranked plans that no other beats in every objective."""
        return front_of(self.ranked, (self.objective, *self.further))

    @property
    def usual_outcome(self) -> Outcome | Refusal | None:
        """What became of the usual plan; None where it was not among those tried."""
        return next((one for one in (*self.simulated, *self.refused) if one.plan == self.usual), None)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame of every plan; its columns are those of ``simulator.outputs.plans``."""
        from simulator.outputs.plans import plans_table
        from simulator.outputs.tables import as_frame

        return as_frame(plans_table(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Return the whole search as plain values, schema 1."""
        simulated = len(self.simulated)
        front = {str(result.plan) for result in self.front} if self.further else frozenset()
        broken = {str(result.plan): [str(limit) for limit in limits] for result, limits in self.breaking}
        return {
            "schema": 1,
            "made_by": self.made_by,
            "inputs": self.inputs,
            "notes": self.notes,
            "counts": {
                "enumerated": simulated + len(self.refused),
                "rejected": len(self.refused),
                "pruned": 0,  # a plan is simulated in milliseconds: none is ruled out by a bound
                "simulated": simulated,
            },
            "usual_plan": self._usual_facts(),
            "plans": [
                {
                    **result.to_json(),
                    **self._facts_here(result, front),
                    "group": name,
                    "breaks": broken.get(str(result.plan), []),
                }
                for name, results in self._groups()
                for result in results
            ],
            "rejected": [
                {"plan": str(refusal.plan), "reason": refusal.reason, "by": refusal.by} for refusal in self.refused
            ],
        }

    def _groups(self) -> Iterator[tuple[str, Iterable[Outcome]]]:
        """Yield the plans of each list under its name in the JSON; every plan that ran is in one."""
        yield from (("ranked", self.ranked), ("changing", self.changing))
        yield "breaking", (result for result, _ in self.breaking)

    def _usual_facts(self) -> dict[str, Any] | None:
        """Return the usual plan, its value of the objective over the best plan's, and why it cannot start."""
        usual = self.usual_outcome
        if usual is None:
            return None
        if isinstance(usual, Refusal):
            return {"plan": str(usual.plan), "ratio": None, "reason": usual.reason}
        return {"plan": str(usual.plan), "ratio": self.ratio_to_best(usual, self.objective.path), "reason": None}

    def ratio_to_best(self, result: Outcome, path: str) -> float | None:
        """Return a plan's value of a metric over the best plan's; None where either is unknown or nothing."""
        ours = None if self.best is None else read_metric(self.best.metrics, path)
        theirs = read_metric(result.metrics, path)
        return theirs / ours if ours and theirs is not None else None

    def chances(self, result: Outcome) -> dict[str, float]:
        """Return the probability that a plan keeps each limit on it, by the limit; none without an interval."""
        known = {str(one): chance_of_keeping(one, result.metrics, result.interval) for one in self.slo.per_plan}
        return {name: chance for name, chance in known.items() if chance is not None}

    def _facts_here(self, result: Outcome, front: Set[str]) -> dict[str, Any]:
        """Return what is known of a plan only beside the others of this search."""
        found, changes = self.versus_best.get(str(result.plan)), self.changes.get(str(result.plan))
        chances = self.chances(result)
        return {
            **({} if found is None else {"versus_best": found.to_json()}),
            **({} if changes is None else {"changes_answers": list(changes)}),
            **({"keeps_frac": chances} if chances else {}),
            **({"on_front": str(result.plan) in front} if self.further else {}),
        }


def front_of(results: Sequence[Outcome], objectives: Sequence[Objective]) -> tuple[Outcome, ...]:
    """Return the plans that no other beats: as many requests answered, as good in every objective, better in one."""
    ranks = np.array([[-one.metrics["finished"], *(aim.rank(one.metrics) for aim in objectives)] for one in results])
    return tuple(
        result
        for result, own in zip(results, ranks, strict=True)
        if not np.any(np.all(ranks <= own, axis=1) & np.any(ranks < own, axis=1))
    )
