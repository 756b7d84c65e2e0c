"""CPU time of compiling a plan, ``Serving.start`` and its tables: ``python benchmarks/plan_compile.py [--costs FILE]``.

Three cases, best of several: every curve known (all but the first plans of a search), no curve known, and none known
in a cost model never asked before. Prices come from the analytic model and, with ``--costs``, from a fitted one of the
H200. Prints one JSON list.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cluster_specs.cluster import ClusterSpec
from cluster_specs.load import load_cluster
from costmodel.cost_model import CostModel
from costmodel.fit_file.artefact import load_artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE
from simulator.engine_profiles.engine_profile import load_profile
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.serving import Refusal, Serving
from simulator.workload.parse import parse_workload

CLUSTER: Final = "h200-sxm-8"
PLANS: Final = (
    ("llama-3.1-8b", "tp8"),
    ("llama-3.1-70b", "tp8"),
    ("llama-3.1-405b", "tp8"),
    ("llama-3.1-8b", "tp8-w.w4a16"),
    ("llama-1t", "tp8-w.w4a16"),
    ("deepseek-v3", "tp8"),
    ("deepseek-v3", "attn.dp8-moe.ep8"),
)
REPEATS: Final = 20


def compile_s(serving: Serving, plan_text: str) -> float:
    """CPU seconds of one compilation."""
    plan, workload = parse_plan(plan_text), parse_workload("chat-synthetic")
    begun = time.process_time()
    start = serving.start(plan, workload)
    if isinstance(start, Refusal):
        raise SystemExit(f"{serving.model.name} {plan}: {start.reason}")
    start.compiled.tables()
    return time.process_time() - begun


def case(cluster: ClusterSpec, model_name: str, plan_text: str, fresh: Callable[[], CostModel]) -> dict[str, object]:
    """Time one plan; ``fresh`` makes a cost model never asked before."""
    model, profile = load_model(model_name), load_profile(DEFAULT_PROFILE)

    def serving(costs: CostModel) -> Serving:
        return Serving(model=model, cluster=cluster, profile=profile, costs=lambda _clock: costs)

    costs = fresh()
    known = serving(costs)
    compile_s(known, plan_text)
    return {
        "model": model_name,
        "plan": plan_text,
        "curves": len(known.curves(None)),
        "known_s": min(compile_s(known, plan_text) for _ in range(REPEATS)),
        "unknown_s": min(compile_s(serving(costs), plan_text) for _ in range(REPEATS)),
        "never_asked_s": min(compile_s(serving(fresh()), plan_text) for _ in range(REPEATS)),
    }


def main() -> None:
    """Print the times of every plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", type=Path, help="fitted cost model of the H200")
    path = parser.parse_args().costs
    cluster = load_cluster(CLUSTER)
    sources: dict[str, Callable[[], CostModel]] = {"analytic": lambda: AnalyticCosts(cluster)}
    if path is not None:
        artefact = load_artefact(path)
        sources["fitted"] = lambda: FittedCosts(artefact, cluster)
    rows = [
        {"costs": name, **case(cluster, model, plan, fresh)} for name, fresh in sources.items() for model, plan in PLANS
    ]
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
