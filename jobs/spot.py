"""Watch for the notice that this spot machine will be taken away, and drain its node in time.

    python -m jobs.spot --address 10.0.0.5:6379
    python -m jobs.spot --address $RAY_ADDRESS --now-s 110    drain now, as the preStop hook of Kubernetes does

cluster.yaml starts this job beside Ray on every spot worker. AWS announces the end of a spot instance two minutes ahead
in the machine's own metadata (IMDSv2). This job asks for it every five seconds and then drains the node: the node gets
no new work, and a run that has workers on it saves a checkpoint before it stops. The job ends with exit status 0 once
the node is drained.
"""

import functools
import sys

from jobs import arguments, console
from pipelines.config.spot import SpotConfig


def parse(words: list[str]) -> SpotConfig:
    return arguments.parse(SpotConfig, words, program="python -m jobs.spot", text=__doc__)


def run(config: SpotConfig) -> None:
    from pipelines.ops import spot  # takes seconds to import: only for a valid command line

    spot.run(config, notify=functools.partial(print, "[spot]", flush=True))


def main() -> None:
    console.main(lambda: run(parse(sys.argv[1:])))


if __name__ == "__main__":
    main()
