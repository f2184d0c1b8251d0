"""Deaths of train workers for the tests, and whether they left a trace in the weights."""

import os
import signal
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

from xmodal import checkpoint


class Killer:
    """Kills the process of one rank by SIGKILL at the first news of a step."""

    def __init__(self, step, rank):
        self.step, self.rank, self.news = step, rank, []

    def __call__(self, message):
        self.news.append(message)
        if message["kind"] == "progress" and message["step"] >= self.step and self.rank is not None:
            os.kill(_pid_of_rank(self.rank), signal.SIGKILL)
            self.rank = None

    @property
    def starts(self):
        return [message["step"] for message in self.news if message["kind"] == "start"]


def _pid_of_rank(rank):
    """The Ray Train workers of this session, in the order of their start; found among our own descendants only."""
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


def weights(run_uri):
    return load_file(Path(checkpoint.resolve(run_uri).uri) / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
