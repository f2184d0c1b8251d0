"""A run that must be refused before a worker starts: a cluster in name only, and the one line that the user reads."""

import pytest

from jobs import adapt, console
from pipelines.loop import validation
from pipelines.runtime import cluster
from pipelines.runtime.cluster import Cluster
from pipelines.stages import training_job
from pipelines.stream import corpora


class WorkersStarted(Exception):
    """A worker would have started: the configuration was accepted."""


def forbid_workers(monkeypatch):
    """Shards are indexed here, and starting workers is a mistake."""

    def launch(*arguments):
        raise WorkersStarted

    monkeypatch.setattr(cluster, "connect", lambda resources: Cluster(tuple(resources.sizes), {"CPU": 1.0}, True))
    for module in (corpora, validation):
        monkeypatch.setattr(module, "map_on_cluster", map)
    monkeypatch.setattr(training_job, "launch", launch)


def expect_one_line_error(arguments, capsys, *parts, job=adapt):
    """Check that a job is refused with exit code 2 and one line that has all of `parts`."""
    with pytest.raises(SystemExit) as exit:
        console.main(lambda: job.run(arguments))
    stderr = capsys.readouterr().err
    lines = [line for line in stderr.splitlines() if not line.startswith(("[adapt]", "[classify]"))]
    assert exit.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), stderr
    assert all(part in lines[0] for part in parts), lines[0]
