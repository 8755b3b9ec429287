"""One process or many: DDP or FSDP2, started by torchrun, `accelerate launch` or a compatible launcher."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from salt_toolkit.contracts import ClipBatch, Method, StepOutput
from salt_toolkit.errors import RunError, SaltError, explain
from salt_toolkit.recipe import Recipe
from salt_toolkit.system.launch import Launch

ValueT = TypeVar("ValueT")


class Processes:
    """The process group of a run; created once, before anything else.

    Ranks and addresses come from the launcher's environment. Without a launcher there is a single process, and no
    process group is initialised.

    Args:
        recipe: The recipe to train.
    """

    def __init__(self, recipe: Recipe) -> None:
        launch = Launch.here()
        self.count, self.rank = launch.world_size, launch.rank
        self.shards_weights = self.count > 1 and _wants_shards(recipe)
        self._host: Any = None
        if recipe.train.batch_size % self.count:
            raise RunError(
                f"train.batch_size = {recipe.train.batch_size} cannot be shared evenly by {self.count} processes; "
                f"choose a multiple of {self.count}, or another number of processes"
            )
        if self.count > 1:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            # Small CPU values travel over gloo, so that exchanging them never waits for a GPU.
            self._host = dist.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def join(self, method: Method) -> nn.Module:
        """Wraps a method for distributed training: gradients become means over all processes.

        Weights and statistics are first broadcast from the first process. Sharding replaces the method's parameter
        objects, so create the optimizer afterwards.

        Args:
            method: Calibrated or restored, on the device.

        Returns:
            The module to call for a step. The method itself remains valid for access to its components.
        """
        if self.count == 1:
            return method
        with torch.no_grad():
            for owned in method.owned_modules().values():
                for tensor in owned.state_dict().values():
                    dist.broadcast(tensor, src=0)
        device = next(method.parameters()).device
        if self.shards_weights:
            return _shard(method, device)
        frozen = [name for name, parameter in method.named_parameters() if not parameter.requires_grad]
        buffers = [name for name, _ in method.named_buffers()]
        # Frozen teachers are identical everywhere, and objectives synchronise their own statistics.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(method, [*frozen, *buffers])
        return DistributedDataParallel(method, device_ids=[device] if device.type == "cuda" else None)

    @contextlib.contextmanager
    def without_sync(self, module: nn.Module) -> Iterator[None]:
        """A context in which gradients accumulate locally, for all but the last batch of a step."""
        if isinstance(module, DistributedDataParallel):
            with module.no_sync():
                yield
        elif self.shards_weights:
            module.set_requires_gradient_sync(False)  # pyright: ignore[reportCallIssue]
            yield
            module.set_requires_gradient_sync(True)  # pyright: ignore[reportCallIssue]
        else:
            yield

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. A collective call."""
        if self._host is None:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._host)
        return bool(found)

    def from_first(self, value: ValueT) -> ValueT:
        """The first process's value, in every process."""
        if self._host is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._host)
        return values[0]

    def decided(self, question: Callable[[], ValueT]) -> ValueT:
        """The first process's answer, in every process; if it fails, all raise its error, explained for users."""
        answer: tuple[ValueT | None, SaltError | None] = (None, None)
        if self.is_first:
            try:
                answer = (question(), None)
            except (SaltError, OSError) as error:
                answer = (None, explain(error))
        value, problem = self.from_first(answer)
        if problem is not None:
            raise problem
        return value  # pyright: ignore[reportReturnType]

    def gathered(self, value: ValueT) -> list[ValueT]:
        """Every process's value, in order of rank."""
        if self._host is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._host)
        return values

    def wait(self) -> None:
        """Waits until all processes have reached this call."""
        if self._host is not None:
            dist.barrier(group=self._host)

    def close(self) -> None:
        """Destroys the process group; the last call."""
        if self._host is not None:
            dist.destroy_process_group()
            self._host = None


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on every process, if it is sharded. A collective call."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a full tensor, with the sharding of another tensor of the same shape."""
    if not _is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # pyright: ignore


def replicated_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that is equal on all processes, as a replicated DTensor if ``like`` is sharded."""
    if not _is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(tensor, like.device_mesh, [Replicate()] * like.device_mesh.ndim)  # pyright: ignore


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _wants_shards(recipe: Recipe) -> bool:
    """Whether the recipe or `accelerate launch --use_fsdp` asks for sharding."""
    return recipe.train.parallel == "fsdp2" or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def _shard(method: Method, device: torch.device) -> nn.Module:
    """Shards the trainable weights over the processes, block by block; teachers are replicated."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for kind in (StepOutput, ClipBatch):  # FSDP must find the tensors in a module's inputs and outputs
        if kind not in pytree.SUPPORTED_NODES:
            pytree.register_dataclass(kind)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in _blocks(method):
        fully_shard(block, mesh=mesh)
    frozen = {parameter for parameter in method.parameters() if not parameter.requires_grad}
    fully_shard(method, mesh=mesh, ignored_params=frozen)  # in place
    return method


def _blocks(method: Method) -> list[nn.Module]:
    """The trainable modules that repeat in sequence: a transformer's blocks."""
    found: list[nn.Module] = []
    for module in method.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
            alike = len({type(child) for child in module}) == 1
            if alike and all(p.requires_grad for p in module.parameters()) and any(True for _ in module.parameters()):
                found += module
    return found
