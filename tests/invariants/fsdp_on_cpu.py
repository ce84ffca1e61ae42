"""`ipr-train` under accelerate's FSDP2 on the CPU, where accelerate itself only offers DDP. Started by torchrun.

Everything else is accelerate's and torch's own: the plugin, `fully_shard`, the collectives over gloo.
"""

import gc

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from implicit_prm.cli.train import main

_init = AcceleratorState.__init__


def _with_fsdp(self, *args, fsdp_plugin=None, **options):
    _init(self, *args, fsdp_plugin=fsdp_plugin, **options)
    self.fsdp_plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
    if self.fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = _with_fsdp
    main()
    print("sharded modules:", sum(issubclass(type(thing), FSDPModule) for thing in gc.get_objects()))
