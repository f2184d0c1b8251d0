"""Kill train workers of a run, and compare the weights of runs."""

import os
import signal
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipelines.runtime.events import StepMetrics, WorkerGroupStart
from xmodal import checkpoint


class RankKiller:
    """Receives a run's events and kills the process of one rank by SIGKILL at the first progress past a step."""

    def __init__(self, step, rank):
        self.step, self.rank, self.events = step, rank, []

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, StepMetrics) and event.step >= self.step and self.rank is not None:
            os.kill(_pid_of_rank(self.rank), signal.SIGKILL)
            self.rank = None

    @property
    def starts(self):
        return [event.step for event in self.events if isinstance(event, WorkerGroupStart)]


def _pid_of_rank(rank):
    """Return the pid of a Ray Train worker of this process, by the order of their start."""
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    workers = [line.split()[0] for line in listing.splitlines() if "ray::RayTrainWorker" in line]
    ours = sorted(int(pid) for pid in workers if _is_descendant(int(pid)))
    return ours[rank]


def _is_descendant(pid):
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


def read_weights(run_uri):
    """Read the weights of a run's newest checkpoint."""
    return load_file(Path(checkpoint.resolve(run_uri).uri) / "model.safetensors")


def same_tensors(a, b):
    """Return whether two sets of tensors are identical."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
