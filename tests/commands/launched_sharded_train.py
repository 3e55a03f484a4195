"""``launched_train.py`` with the network sharded by FSDP, which accelerate by itself offers on accelerators only."""

import sys

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from launched_train import run

from captioner.training import device


def shard(accelerator: Accelerator) -> Accelerator:
    """Make of a data-parallel accelerator on the CPU what docs/accelerate/fsdp.yaml makes of one on GPUs."""
    AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["DecoderBlock"],
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
        state_dict_type="FULL_STATE_DICT",
    )
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    assert accelerator.is_fsdp2
    return accelerator


if __name__ == "__main__":
    build = device.build_accelerator
    device.build_accelerator = lambda settings: shard(build(settings))
    sys.exit(run(*sys.argv[1:]))
