"""The range of the seeds of all commands."""

from xmodal.errors import ConfigError


def check_seed(seed: int) -> None:
    """Raise ConfigError for a seed that a 64-bit generator cannot take."""
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed={seed} must lie in [0, 2**63)")
