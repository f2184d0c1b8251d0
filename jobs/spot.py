"""Watch for the notice that this spot machine will be taken away, and let the cluster know in time.

    python -m jobs.spot --address 10.0.0.5:6379
    python -m jobs.spot --address $RAY_ADDRESS --now-s 110    it is known that the machine goes (Kubernetes' preStop)

cluster.yaml starts it beside Ray on every spot worker. AWS announces the end of a spot instance in the machine's own
metadata (IMDSv2) two minutes ahead; this job asks every five seconds and answers by draining the node: it gets no new
work, and a run that has ranks on it writes a checkpoint before it goes. Ends with exit status 0 once the node is
drained.
"""

import functools

import tyro

from jobs import console
from pipelines import spot


def main() -> None:
    parse = functools.partial(tyro.cli, spot.Config, prog="python -m jobs.spot", description=__doc__)
    say = functools.partial(print, "[spot]", flush=True)
    console.main(lambda: spot.run(parse(), say=say))


if __name__ == "__main__":
    main()
