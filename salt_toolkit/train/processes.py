"""One process or many: DDP or FSDP2, started by torchrun, `accelerate launch`, or another launcher like them."""

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
    """The processes of a run, as one of them sees them; made once, before anything else.

    Ranks and addresses come from the launcher's environment. Without a launcher there is one process, and
    nothing is set up.

    Args:
        recipe: What is to be trained.
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
            # Small questions between hosts go by gloo, so that none of them waits for a GPU.
            self._host = dist.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to people."""
        return self.rank == 0

    def join(self, method: Method) -> nn.Module:
        """Joins a method with those of the other processes: gradients become means over all of them.

        Weights and statistics are first made those of the first process. In shards, the method's parameters
        are other objects afterwards, so that an optimizer is to be made after this.

        Args:
            method: Calibrated or restored, on the device.

        Returns:
            The module to call for a step. The method itself stays of use for its parts.
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
        # Teachers are the same everywhere, and the objectives keep their statistics equal by themselves.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(method, [*frozen, *buffers])
        return DistributedDataParallel(method, device_ids=[device] if device.type == "cuda" else None)

    @contextlib.contextmanager
    def without_sync(self, module: nn.Module) -> Iterator[None]:
        """A context in which gradients only add up in each process, for all but the last batch of a step."""
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
        """Whether the flag is set in any process; all have to ask together."""
        if self._host is None:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._host)
        return bool(found)

    def from_first(self, value: ValueT) -> ValueT:
        """The first process's value, for all."""
        if self._host is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._host)
        return values[0]

    def decided(self, question: Callable[[], ValueT]) -> ValueT:
        """The first process's answer, for all; also its error in the user's words, which all then raise."""
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
        """Every process's value, in the order of their ranks."""
        if self._host is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._host)
        return values

    def wait(self) -> None:
        """Waits until all processes have come here."""
        if self._host is not None:
            dist.barrier(group=self._host)

    def close(self) -> None:
        """Ends the conversation; the last call."""
        if self._host is not None:
            dist.destroy_process_group()
            self._host = None


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may lie in shards, put together on every process; all have to ask together."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, as another of the same shape is sharded."""
    if not _is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # pyright: ignore


def replicated_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that is the same on all processes, in a form that goes together with a sharded one."""
    if not _is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(tensor, like.device_mesh, [Replicate()] * like.device_mesh.ndim)  # pyright: ignore


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _wants_shards(recipe: Recipe) -> bool:
    """The recipe says so, or `accelerate launch --use_fsdp` does."""
    return recipe.train.parallel == "fsdp2" or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def _shard(method: Method, device: torch.device) -> nn.Module:
    """Shares the weights that learn out among the processes, block by block; teachers stay whole in each."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for kind in (StepOutput, ClipBatch):  # sharding looks for the tensors in what modules take and return
        if kind not in pytree.SUPPORTED_NODES:
            pytree.register_dataclass(kind)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in _blocks(method):
        fully_shard(block, mesh=mesh)
    frozen = {parameter for parameter in method.parameters() if not parameter.requires_grad}
    fully_shard(method, mesh=mesh, ignored_params=frozen)  # in place
    return method


def _blocks(method: Method) -> list[nn.Module]:
    """The modules that stand in a row, alike, and learn: a transformer's blocks."""
    found: list[nn.Module] = []
    for module in method.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
            alike = len({type(child) for child in module}) == 1
            if alike and all(p.requires_grad for p in module.parameters()) and any(True for _ in module.parameters()):
                found += module
    return found
