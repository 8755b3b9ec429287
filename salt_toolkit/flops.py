"""FLOPs and parameters of transformers, by arithmetic; equal to torch's FlopCounterMode.

Matrix products are counted, with 2 FLOPs per multiply-add; LayerNorm, GELU and softmax are not. A training step costs
three forward passes (forward, and the gradients of weights and inputs) minus the gradient with respect to the data,
which is never computed.
"""

from __future__ import annotations

from salt_toolkit.geometry import Cost


def linear_flops(tokens: int, inputs: int, outputs: int) -> int:
    """FLOPs of a Linear layer over ``tokens`` vectors."""
    return 2 * tokens * inputs * outputs


def linear_parameters(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Parameters of a Linear layer."""
    return inputs * outputs + (outputs if bias else 0)


def block_flops(tokens: int, dim: int, mlp_dim: int) -> int:
    """FLOPs of one transformer block: q, k, v and output projections, attention, MLP."""
    projections = linear_flops(tokens, dim, 4 * dim)
    attention = 4 * tokens * tokens * dim
    mlp = 2 * linear_flops(tokens, dim, mlp_dim)
    return projections + attention + mlp


def block_parameters(dim: int, mlp_dim: int, *, qkv_bias: bool = True) -> int:
    """Parameters of one pre-norm transformer block with biases and two LayerNorms."""
    attention = linear_parameters(dim, 3 * dim, bias=qkv_bias) + linear_parameters(dim, dim)
    mlp = linear_parameters(dim, mlp_dim) + linear_parameters(mlp_dim, dim)
    return attention + mlp + 4 * dim


def block_activations(tokens: int, dim: int, mlp_dim: int) -> int:
    """Activations that one block stores for its backward pass, with fused attention; an estimate, in elements.

    Two LayerNorms store input and output (4), attention stores q, k, v and its output (4), the MLP stores its hidden
    activations before and after GELU.
    """
    return tokens * (8 * dim + 2 * mlp_dim)


def train_step_flops(*trained: Cost) -> int:
    """FLOPs of forward and backward through a chain of modules, for one clip."""
    return 3 * sum(cost.forward_flops for cost in trained) - sum(cost.input_flops for cost in trained)
