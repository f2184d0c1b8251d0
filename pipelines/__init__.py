"""The stages as functions of a configuration: what the commands of `jobs` run, on Ray."""

from pipelines.runtime import ray_compat

ray_compat.set_defaults(ray_compat.BEFORE_IMPORT)
