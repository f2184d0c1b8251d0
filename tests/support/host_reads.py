"""Detection, on any device, of operators that make the host wait for an accelerator."""

from torch.utils._python_dispatch import TorchDispatchMode


class HostReads(TorchDispatchMode):
    """Records the operators whose result the host must wait for on an accelerator."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "is_nonzero",
        "_linalg_check_errors",
        "equal",
    )

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.__name__.split(".")[0]
        if name in self.WAITING:
            self.seen.append(name)
        return function(*arguments, **(keywords or {}))
