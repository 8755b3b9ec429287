"""The limit that a device's matrix units set: published for known GPUs, measured elsewhere."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch

from salt_toolkit.runs.machine import Machine

PUBLISHED = (
    # GPU's name, TFLOP/s in bf16, in tf32; the first that fits counts, so narrow names come first.
    (r"\bMIG\b|Laptop|Max-Q|RTX 5090 D|RTX 4090 D", None, None),
    (r"\bH[12]00 NVL\b", 835.5, 417.5),
    (r"\bH100 PCIe\b", 756.0, 378.0),
    (r"\bG?H[12]00\b", 989.4, 494.7),
    (r"\bA100\b", 312.0, 156.0),
    (r"\bL40S\b", 362.0, 183.0),
    (r"\bRTX 5090\b", 209.5, 104.8),
    (r"\bRTX 4090\b", 165.2, 82.6),
)
"""Dense TFLOP/s with float32 accumulation, from NVIDIA's data sheets and white papers; None: it is measured."""

MATRIX_SIDE = {"cuda": 8192, "cpu": 2048}
ROUNDS = 5


@dataclass(frozen=True)
class Peak:
    """The most that a device computes.

    Attributes:
        flops: FLOPs a second.
        source: Where the number comes from, as a phrase.
    """

    flops: float
    source: str


def peak_of(machine: Machine) -> Peak:
    """The limit of a machine's device, in the precision that a run computes in there."""
    if machine.device.type == "cuda":
        name = torch.cuda.get_device_name(machine.device)
        precision = _precision(machine)
        flops = published_flops(name, precision)
        if flops is not None:
            return Peak(flops, f"the dense {precision} figure that NVIDIA publishes for the {name}")
    return Peak(measure_peak(machine), f"the best {_precision(machine)} matrix product of this very measurement")


def published_flops(name: str, precision: str) -> float | None:
    """FLOPs a second of a GPU by its name, in ``bf16`` or ``tf32``; None where none is known."""
    for pattern, bf16, tf32 in PUBLISHED:
        if re.search(pattern, name):
            teraflops = {"bf16": bf16, "tf32": tf32}.get(precision)
            return None if teraflops is None else teraflops * 1e12
    return None


def measure_peak(machine: Machine) -> float:
    """FLOPs a second of the fastest of a few large matrix products."""
    side = MATRIX_SIDE[machine.device.type]
    left, right = (torch.randn(side, side, device=machine.device) for _ in range(2))
    seconds = []
    with torch.inference_mode():
        if machine.bf16:
            left, right = left.bfloat16(), right.bfloat16()
        for _ in range(ROUNDS):
            wait_for(machine)
            begin = time.perf_counter()
            torch.matmul(left, right)
            wait_for(machine)
            seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds)


def wait_for(machine: Machine) -> None:
    """Waits until the device has done all that it was asked for."""
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)


def _precision(machine: Machine) -> str:
    if machine.bf16:
        return "bf16"
    tf32 = machine.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if tf32 else "fp32"
