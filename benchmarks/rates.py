"""How far off are the hours that `bench run --dry-run` tells? What stores hold, against what would have been told.

`python -m benchmarks.rates STORE` holds the seconds of every finished stage against two estimates: from the rates that
ship with the package alone, and from the store's other stages, its own left out. `--write FILE` makes the file of
rates (`bench/presets/rates.json`) out of the stores instead: run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.rates import Rates, Sample, all_shipped, as_rows, of_store
from bench.store import Store
from benchmarks import common


def main() -> int:
    """Compare, or write."""
    parser = common.parser(__doc__)
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE")
    parser.add_argument("--diffusion", type=Path, nargs="*", default=[], help="folders of the models that were used")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the rates of these stores")
    given = parser.parse_args()
    samples = [s for place in given.stores for s in of_store(Store(place), given.diffusion, bool(given.write))]
    if not samples:
        common.say("no finished stage of this version in these stores")
        return 2
    if given.write:
        rows = as_rows(sorted(samples, key=lambda s: (s.stage, s.cost.what, s.seconds)))
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        about = json.dumps(common.machine())
        given.write.write_text(f'{{"machine": {about}, "samples": [\n{lines}\n]}}\n', encoding="utf-8")
        common.say(f"{len(rows)} kinds and sizes of stages written to {given.write}")
        return 0
    rows = list(compared(samples, all_shipped()))
    if given.json:
        print(json.dumps({"machine": common.machine(), "stages": rows}, indent=1))
    else:
        print_table(rows)
    return 0


def compared(samples: list[Sample], shipped: Iterable[Sample]) -> Iterator[dict[str, float | str | int | None]]:
    """Yield, for each kind of stage, told over taken: from shipped rates, and from all samples but the one told of."""
    by_stage: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_stage[sample.stage].append(sample)
    for stage, found in sorted(by_stage.items(), key=lambda item: -sum(s.seconds for s in item[1])):
        from_shipped = told(found, Rates(tuple(shipped)))
        others = [told([s], Rates(tuple(o for o in found if o is not s)))[0] for s in found] if len(found) > 1 else []
        yield {
            "stage": stage,
            "n": len(found),
            "seconds": sum(s.seconds for s in found),
            **_spread("shipped", from_shipped, found),
            **_spread("others", others, found),
        }


def told(found: list[Sample], rates: Rates) -> list[float]:
    """Return the seconds that would have been told of each sample."""
    return [rates.estimate(s.stage, replace(s.cost), s.device).seconds for s in found]


def _spread(name: str, seconds: list[float], found: list[Sample]) -> dict[str, float | None]:
    """Return told over taken: of all seconds together, and the least, median and most of single stages."""
    if not seconds:
        return {name: None, f"{name}_low": None, f"{name}_median": None, f"{name}_high": None}
    ratios = [t / s.seconds for t, s in zip(seconds, found, strict=True)]
    whole = sum(seconds) / sum(s.seconds for s in found)
    return {name: whole, f"{name}_low": min(ratios), f"{name}_median": median(ratios), f"{name}_high": max(ratios)}


def print_table(rows: list[dict[str, float | str | int | None]]) -> None:
    """Print the rows of `compared` and the machine."""

    def cell(row: dict[str, float | str | int | None], name: str) -> str:
        whole, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
        return "–" if whole is None else f"{whole:.2f} ({low:.2f} to {high:.2f})"

    print("| stage | n | taken, s | shipped rates: told / taken | all others: told / taken |")
    print("|---|---:|---:|---:|---:|")
    for row in rows:
        start = f"| {row['stage']} | {row['n']} | {row['seconds']:.1f} "
        print(f"{start}| {cell(row, 'shipped')} | {cell(row, 'others')} |")
    print(f"\nload {os.getloadavg()[0]:.1f}; {common.machine()['cpu']}")


if __name__ == "__main__":
    sys.exit(main())
