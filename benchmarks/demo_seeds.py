"""The demo over several seeds: how good each encoder is, and how far the student's lead varies.

Seeds count from 1: the demo's settings were chosen on seed 0.

python benchmarks/demo_seeds.py [folder] [seeds]
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from salt_demo.story import bundled_recipes, run_demo


def main(folder: Path, num_seeds: int) -> None:
    """Runs the demo for each seed (or reads what an earlier call finished), and prints a table."""
    summaries = []
    for seed in range(1, num_seeds + 1):
        directory = folder / f"seed{seed}"
        if not (directory / "summary.json").exists():
            run_demo(directory, bundled_recipes(), seed=seed)
        summaries.append(json.loads((directory / "summary.json").read_text(encoding="utf-8")))
    print(f"| encoder | k-NN, mean of {num_seeds} seeds (least to largest) | linear probe |")
    print("|---|---|---|")
    for encoder in summaries[0]["encoders"]:
        cells = [_spread([summary["encoders"][encoder][probe] for summary in summaries]) for probe in ("knn", "linear")]
        print(f"| {encoder} | {' | '.join(cells)} |")
    print(f"| margin of the distilled student | | {_spread([summary['margin'] for summary in summaries])} |")
    print("seconds:", [summary["seconds"]["total"] for summary in summaries])


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo_seeds"), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
