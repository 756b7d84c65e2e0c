"""Gaps between the tokens of all answers, one observation per gap, as a client pools them.

The engine keeps no time per token, but its iteration log has every step: a sequence that decodes gets a token at the
end of each step from its first token on. Where that count is not every answer's (preemption, drafts, pipelines whose
micro-batches take turns, tokens sent together), the log does not tell, and nothing is returned.
"""

import numpy as np

from simulator.engine.result import EngineResult
from simulator.results.metrics import Distribution

_S_PER_PS = 1e-12


def gap_distribution(run: EngineResult) -> Distribution | None:
    """Return the gaps of answered, measured requests in seconds; None where the log does not tell them.

    Quantiles are the smallest gap that so many are not above.
    """
    if run.log is None or (run.chunks.first, run.chunks.tokens) != (1, 1):
        return None
    chosen = run.is_finished & run.measured
    gaps_ps, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    decodes = run.log["decodes"] > 0
    for replica in np.unique(run.replica[chosen]).tolist():
        own = chosen & (run.replica == replica) & (run.output_tokens > 1)
        ends_ps = np.sort(run.log["end_ps"][decodes & (run.log["replica"] == replica)])
        first = np.searchsorted(ends_ps, run.first_token_ps[own], side="right")
        last = np.searchsorted(ends_ps, run.finish_ps[own], side="left")
        if not np.array_equal(last - first + 1, run.output_tokens[own] - 1):
            return None
        # A request's first gap ends with the first step behind its first token, the others span from step to step.
        gaps_ps += [ends_ps[first] - run.first_token_ps[own], np.diff(ends_ps)]
        steps = np.zeros(len(ends_ps) + 1, dtype=np.int64)
        np.add.at(steps, first + 1, 1)
        np.add.at(steps, last + 1, -1)
        weights += [np.ones(int(own.sum()), dtype=np.int64), np.cumsum(steps)[1 : len(ends_ps)]]
    gaps, counts = np.concatenate(gaps_ps), np.concatenate(weights)
    if not counts.sum():
        return None
    return Distribution.of_weighted(np.asarray(gaps * _S_PER_PS, dtype=np.float64), counts.astype(np.float64))
