"""Random pods, namespaces, verbs and outages on a lab, and an oracle that says who may reach whom after each.

All of it follows from the seed. A failure is told with the seed and the shortest beginning of its plan that fails too.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

from scripts.interrupts import end_on_signals
from tests.support.soak.run import Outcome, shortest_failure, soak

RERUNS = 5


def main() -> int:
    """Run the soak that the flags describe; exit status 1 if anything was wrong."""
    end_on_signals()
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no step after so many (default: 60)")
    parser.add_argument("--seed", type=int, help="default: any")
    parser.add_argument("--steps", type=int, help="begin no more steps than this (default: as time allows)")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--name", default=f"soak-{os.getpid()}", help="of the lab")
    parser.add_argument("--reruns", type=int, default=RERUNS, help="to find a shorter plan that fails (default: 5)")
    parser.add_argument("--logs", type=Path, help="a directory to be made, for the logs of a cluster that failed")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 16)

    def run(steps: int | None, logs: Path | None = None) -> Outcome:
        tell = lambda line: print(f"soak: {line}", flush=True)  # noqa: E731
        seconds = arguments.seconds if logs is not None or steps == arguments.steps else float("inf")
        outcome = soak(arguments.name, seed, arguments.nodes, most_steps=steps, seconds=seconds, tell=tell, logs=logs)
        print(f"soak: {outcome}", flush=True)
        return outcome

    print(f"soak: seed {seed}, {arguments.nodes} nodes", flush=True)
    outcome = run(arguments.steps, arguments.logs)
    if not outcome.failure:
        return 0
    shortest = shortest_failure(lambda steps: bool(run(steps).failure), outcome.steps, arguments.reruns)
    print(
        f"soak: FAILED: {outcome.failure}\n"
        f"soak: the first {shortest} steps of seed {seed} fail: scripts/soak --seed {seed} --nodes {arguments.nodes} "
        f"--steps {shortest} --seconds 3600",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
