"""Watch for the notice that this spot machine will be taken away, and let the cluster know in time.

    python -m jobs.spot --address 10.0.0.5:6379
    python -m jobs.spot --address $RAY_ADDRESS --now-s 110    it is known that the machine goes (Kubernetes' preStop)

cluster.yaml starts it beside Ray on every spot worker. AWS announces the end of a spot instance in the machine's own
metadata (IMDSv2) two minutes ahead; this job asks every five seconds and answers by draining the node: it gets no new
work, and a run that has ranks on it writes a checkpoint before it goes. Ends with exit status 0 once the node is
drained.
"""

import functools
import sys

from jobs import arguments, console
from pipelines.config.spot import Config


def parse(words: list[str]) -> Config:
    return arguments.parse(Config, words, program="python -m jobs.spot", text=__doc__)


def run(config: Config) -> None:
    from pipelines.ops import spot  # Ray and a second, for a command line that is sound

    spot.run(config, say=functools.partial(print, "[spot]", flush=True))


def main() -> None:
    console.main(lambda: run(parse(sys.argv[1:])))


if __name__ == "__main__":
    main()
