"""Metamorphic relations on random cases: `python -m benchmarks.metamorphic --cases 3000`.

Prints for each relation how often it was asked, how often it fell short and by how much, and the worst cases.
``--first SEED`` goes on where an earlier run ended, ``--relation TEXT`` picks relations by name.
"""

import argparse
import sys
import time

from benchmarks.metamorphic.cases import draw_case
from benchmarks.metamorphic.relations import RELATIONS, bound

_SHOWN = 5


def main() -> int:
    """Try every relation on every case; returns how many relations exceed their bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--relation", default="", help="only those whose name holds this text")
    given = parser.parse_args()
    chosen = {name: relation for name, relation in RELATIONS.items() if given.relation in name}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in chosen}
    start = time.process_time()
    for seed in range(given.first, given.first + given.cases):
        case = draw_case(seed)
        for name, relation in chosen.items():
            shortfall = relation(case)
            if shortfall is not None:
                found[name].append((shortfall, seed))
    exceeding = 0
    for name, asked in found.items():
        for kind, has_stages in (("", False), (", pipelines", True)):
            cases = sorted((case for case in asked if (draw_case(case[1]).plan.pp > 1) == has_stages), reverse=True)
            if not cases:
                continue
            limit = bound(name, draw_case(cases[0][1]))
            short = [shortfall for shortfall, _ in cases if shortfall > 0]
            exceeding += cases[0][0] > limit
            worst = f", worst {short[0]:.3g}, median of those {short[len(short) // 2]:.3g}" if short else ""
            print(f"{name}{kind}: {len(cases)} cases, {len(short)} fall short{worst}; bound {limit:g}")
            for shortfall, seed in cases[: min(_SHOWN, len(short))]:
                print(f"    {shortfall:.4g}  {draw_case(seed)}")
    print(f"{given.cases} cases, {time.process_time() - start:.0f} s of CPU, {exceeding} relations exceed their bound")
    return min(exceeding, 100)


if __name__ == "__main__":
    sys.exit(main())
