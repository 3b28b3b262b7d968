"""Operations for which a GPU has to wait for the host, found on any device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "unique", "_unique2", "masked_select", "is_nonzero", "equal")


class Waits(TorchDispatchMode):
    """Collects operations for which a GPU would wait: values read by the host, shapes that depend on values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        given = [a for a in args if isinstance(a, (list, tuple))]
        by_mask = name.startswith("index") and any(
            torch.is_tensor(a) and a.dtype in (torch.bool, torch.uint8) for part in given for a in part
        )
        number = name == "lift_fresh" and args[0].numel() == 1  # a number made a tensor, which is then copied
        if name in WAITING or by_mask or number:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def refused(call):
    """What torch says when the GPU may not wait, "" if it never does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
        return ""
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
