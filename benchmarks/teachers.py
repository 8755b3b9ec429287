"""Frozen teachers: clips a second, GFLOP, and the share of the device's peak.

Each teacher runs its dense latents on noise, as training and caching do: inference mode, autocast
to bfloat16 where the device has it natively, fused attention. The peak is NVIDIA's dense bfloat16
figure for known GPUs; elsewhere it is the best matrix product that this machine does in the same
run. VideoMAE is also compared with transformers' model, the straightforward way, in turns. Latents
under bfloat16 are compared with those in float32, token by token.

python benchmarks/teachers.py [--sizes small base] [--batch 8] [--compile] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import VideoMAEConfig as TransformersConfig
from transformers import VideoMAEModel

from salt_toolkit import ClipSpec
from salt_toolkit.context import video_inputs
from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.measure.peak import peak_of
from salt_toolkit.registry import discover
from salt_toolkit.runs.machine import Machine

CHECKPOINTS = {
    "small": ("videomae", "MCG-NJU/videomae-small-finetuned-kinetics"),
    "base": ("videomae", "MCG-NJU/videomae-base"),
    "large": ("videomae", "MCG-NJU/videomae-large"),
    "huge": ("videomae", "MCG-NJU/videomae-huge-finetuned-kinetics"),
    "giant": ("videomae2", "OpenGVLab/VideoMAEv2-giant"),
}
"""Random weights stand in for them: speed does not depend on the numbers."""

CLIP = ClipSpec()


def main() -> None:
    """Measures the sizes asked for, and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=CHECKPOINTS, default=["small", "base"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    peak, name = _peak(device, bf16)
    print(f"{name}, {'bf16' if bf16 else 'fp32'}, peak {peak / 1e12:.3g} TFLOP/s, torch {torch.__version__}")
    rows = [_measure(size, arguments, device, bf16, peak) for size in arguments.sizes]
    print("| teacher | GFLOP per clip | clips/s | share of peak | relative to transformers | bf16 error (max) |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        ratio = f"{row['over_transformers']:.2f}" if row["over_transformers"] else "-"
        error, largest = row["bf16_error"]
        cells = f"{row['gflops']:.1f} | {row['clips_per_second']:.2f} | {row['share']:.1%} | {ratio}"
        cells += f" | {error:.2%} ({largest:.2%})"
        print(f"| {row['size']} | {cells} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": name, "peak": peak, "rows": rows}, indent=2))


def _measure(size: str, arguments: Any, device: torch.device, bf16: bool, peak: float) -> dict[str, Any]:
    use, checkpoint = CHECKPOINTS[size]
    component = discover().get("teacher", use).component
    config: Any = component.config.model_validate({"checkpoint": checkpoint, "weights": "random"})
    teacher: Teacher = component.build(config, clip=CLIP).to(device)
    shape = (arguments.batch, CLIP.frames, CLIP.size, CLIP.size, 3)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    batch = ClipBatch(tuple(map(str, range(arguments.batch))), {"clip": clips})
    forward: Callable[..., Any] = torch.compile(teacher) if arguments.compile else teacher
    ways: dict[str, Callable[[], Any]] = {"salt": lambda: forward(batch)}
    if use == "videomae":
        theirs = torch.nn.Module.to(_transformers_model(config), device)
        pixels = batch.clip.transpose(1, 2).float() / 255
        ways["transformers"] = lambda: theirs(pixels).last_hidden_state
    seconds = _in_turns(ways, arguments.rounds, device, bf16)
    flops = config.cost(video_inputs(CLIP)).forward_flops
    clips_per_second = arguments.batch / seconds["salt"]
    return {
        "size": size,
        "gflops": flops / 1e9,
        "clips_per_second": clips_per_second,
        "share": flops * clips_per_second / peak,
        "over_transformers": seconds["transformers"] / seconds["salt"] if "transformers" in seconds else None,
        "bf16_error": _bf16_error(teacher, batch, device),
    }


@torch.inference_mode()
def _bf16_error(teacher: Teacher, batch: ClipBatch, device: torch.device) -> tuple[float, float]:
    """Length of a token's error over its length: the median over all tokens, and the largest."""
    exact = teacher(batch)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        rounded = teacher(batch)
    errors = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    return errors.median().item(), errors.max().item()


def _transformers_model(config: Any) -> VideoMAEModel:
    made = config.architecture()
    return VideoMAEModel(
        TransformersConfig(
            hidden_size=made.dim,
            num_hidden_layers=made.depth,
            num_attention_heads=made.heads,
            intermediate_size=made.mlp_dim,
            use_mean_pooling=False,
        )
    ).eval()


def _in_turns(ways: dict[str, Callable[[], Any]], rounds: int, device: torch.device, bf16: bool) -> dict[str, float]:
    """The median seconds of each way; the ways take turns, so that a busy machine slows them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for round_number in range(rounds + 2):  # two rounds to warm up and to compile
            for name, way in ways.items():
                _wait(device)
                begin = time.perf_counter()
                way()
                _wait(device)
                if round_number >= 2:
                    seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _peak(device: torch.device, bf16: bool) -> tuple[float, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return peak_of(Machine(device, bf16)).flops, name


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
