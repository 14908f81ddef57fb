"""Trains every family in shards, as the launch file says that starts it: ``-m tests.integration.sharded_steps FILE``.

Accelerate shards nothing on CPUs, so it is called here for the part that does not ask for the device.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model, save_fsdp_model, save_fsdp_optimizer
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from hf_effattn.files import write_json
from hf_effattn.training.export_run import whole_model
from tests.models.variants import FAMILIES, random_ids, tiny_model


HEADS = ("AutoModelForSequenceClassification", "AutoModelForMaskedLM", "AutoModelForCausalLM")
IDS = random_ids(4, 12)

#: Options with further weights, the memory's among them, which no block holds.
OPTIONS = {
    "kernel_transformer": {"feature_map": "glu", "num_kernel_layers": 2},
    "memory_transformer": {"segment_length": 5, "memory_filter": "conv"},
    "luna": {"pooling": "memory", "pack_temperature": "learned"},
}


def stand_in():
    """What an accelerator would be on GPUs, with the plugin that the launcher's variables describe."""
    state = SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin())
    accelerator = SimpleNamespace(
        state=state,
        mixed_precision="no",
        is_main_process=torch.distributed.get_rank() == 0,
        process_index=torch.distributed.get_rank(),
        num_processes=torch.distributed.get_world_size(),
        device=torch.device("cpu"),
        distributed_type=DistributedType.FSDP,
        is_fsdp2=True,
    )
    accelerator.get_state_dict = lambda model: Accelerator.get_state_dict(accelerator, model)
    return accelerator


def losses_of_two_steps(model, rows):
    """Plain gradient descent on the same rows twice, the losses averaged over the processes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = torch.arange(4) % 2 if hasattr(model, "classifier") else IDS
    losses = []
    for _ in range(2):
        loss = model(input_ids=IDS[rows], labels=labels[rows]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.detach()
        torch.distributed.all_reduce(loss, torch.distributed.ReduceOp.AVG)
        losses.append(loss.item())
    return losses


def compared(family, head, options):
    """The losses and weights of a model in shards beside those of the same model whole."""
    whole, sharded = (tiny_model(family, head, torch.float32, **options).train() for _ in range(2))
    kind, accelerator = type(sharded), stand_in()
    sharded = fsdp2_prepare_model(accelerator, sharded)
    rank = torch.distributed.get_rank()
    found = {
        "losses": losses_of_two_steps(sharded, slice(2 * rank, 2 * rank + 2)),
        "expected": losses_of_two_steps(whole, slice(0, 4)),
        "blocks": [isinstance(block, FSDPModule) for block in sharded.model.layers],
        "in shards": all(isinstance(parameter, DTensor) for parameter in sharded.parameters()),
    }
    trainer = SimpleNamespace(
        is_fsdp_enabled=True,
        accelerator=accelerator,
        model=sharded,
        is_world_process_zero=lambda: accelerator.is_main_process,
    )
    gathered = whole_model(trainer, kind)
    pairs = zip(gathered.parameters(), whole.parameters(), strict=True)
    found["difference"] = max((one - other).abs().max().item() for one, other in pairs)
    return found


def stored(folder):
    """The names of the files that a checkpoint of a model in shards has beside others, as `Trainer` writes them."""
    accelerator = stand_in()
    model = fsdp2_prepare_model(accelerator, tiny_model(FAMILIES[0], HEADS[0], torch.float32))
    optimizer = torch.optim.AdamW(model.parameters())
    save_fsdp_model(accelerator.state.fsdp_plugin, accelerator, model, folder)
    save_fsdp_optimizer(accelerator.state.fsdp_plugin, accelerator, optimizer, model, folder)
    return sorted(file.name for file in Path(folder).iterdir())


def main(path):
    """Write what all families and heads gave to `path`."""
    processes = PartialState(cpu=True)
    found = {}
    for family in FAMILIES:
        for head in HEADS:
            if head in family.class_names:
                found[f"{family.model_type} {head}"] = compared(family, head, {})
        if family.model_type in OPTIONS:
            found[f"{family.model_type} {HEADS[0]} options"] = compared(family, HEADS[0], OPTIONS[family.model_type])
    files = stored(f"{path}-checkpoint")
    if processes.is_main_process:
        write_json(path, {"processes": processes.num_processes, "models": found, "files": files})
    processes.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
