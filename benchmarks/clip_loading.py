"""How long a clip takes from file to uint8 frames: PyAV against decord, on videos like Something-Something v2's.

Run ``python benchmarks/clip_loading.py [videos]``. Both decoders read the same views of the same files, in
turns and in both orders, so a busy machine disturbs both alike. CPU time is the steadier number.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import av
import numpy as np
from salt_clips.config import DecoderName, VideoFolderConfig
from salt_clips.dataset import VideoDataset

from salt_toolkit.geometry import ClipSpec

HEIGHT, RATE, SECONDS = 240, 12, 4
DECODERS: tuple[DecoderName, ...] = ("pyav", "decord")
FORMATS = {
    "VP9 webm 427x240": ("webm", "libvpx-vp9", 427, {"deadline": "realtime", "cpu-used": "6", "g": "128"}),
    "h264 mp4 426x240": ("mp4", "libx264", 426, {"preset": "veryfast", "g": "128"}),
}


def write_video(path: Path, codec: str, width: int, options: dict[str, str], seed: int) -> None:
    """A smooth scene with some grain that a hand-held camera sways over, at about 180 kbit/s."""
    generator = np.random.default_rng(seed)
    scene = np.kron(generator.normal(0, 60, (24, 40, 3)), np.ones((16, 16, 1))) + generator.normal(0, 6, (384, 640, 3))
    for axis in (0, 1):
        scene = sum(np.roll(scene, shift, axis) for shift in range(-4, 5)) / 9
    scene = np.clip(scene + 128, 0, 255)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, HEIGHT, "yuv420p"
        stream.bit_rate, stream.options = 180_000, options
        for index in range(RATE * SECONDS):
            top, left = int(60 + 50 * np.sin(index / 9)), int(100 + 90 * np.cos(index / 13))
            picture = scene[top : top + HEIGHT, left : left + width] + generator.normal(0, 2, (HEIGHT, width, 1))
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def open_dataset(root: Path, decoder: DecoderName) -> VideoDataset:
    """The written videos as a data set."""
    config = VideoFolderConfig(root=str(root), decoder=decoder)
    return VideoDataset(config.listing(), clip=ClipSpec(), seed=0, decoder=decoder)


def measure(datasets: dict[DecoderName, VideoDataset], num_videos: int) -> dict[DecoderName, tuple[float, float]]:
    """Median CPU and wall milliseconds a clip for each decoder, clip by clip in alternating order."""
    times: dict[DecoderName, list[tuple[float, float]]] = {decoder: [] for decoder in DECODERS}
    for turn in range(4):
        for index in range(num_videos):
            for decoder in DECODERS[:: 1 if (turn + index) % 2 else -1]:
                cpu, wall = time.process_time(), time.perf_counter()
                datasets[decoder].read(index, turn)
                if turn:  # the first turn warms up
                    times[decoder].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {}
    for decoder, rows in times.items():
        cpu, wall = (1000 * statistics.median(column) for column in zip(*rows, strict=True))
        medians[decoder] = (cpu, wall)
    return medians


def clips_per_second(dataset: VideoDataset, num_videos: int, num_threads: int) -> float:
    """Best rate of three passes in threads."""
    rates = []
    with ThreadPoolExecutor(num_threads) as threads:
        for view in range(3):
            begin = time.perf_counter()
            list(threads.map(dataset.read, range(num_videos), repeat(view)))
            rates.append(num_videos / (time.perf_counter() - begin))
    return max(rates)


def main(num_videos: int) -> None:
    """Writes the videos, measures, and prints one line for each format and decoder."""
    print(f"{'format':<18} {'decoder':<8} {'CPU ms':>7} {'ms':>7} {'1 thread':>9} {'2 threads':>10}  (clips/s)")
    for name, (ending, codec, width, options) in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "train", "scenes")
            place.mkdir(parents=True)
            for index in range(num_videos):
                write_video(place / f"{index:03d}.{ending}", codec, width, options, index)
            datasets = {decoder: open_dataset(Path(folder), decoder) for decoder in DECODERS}
            medians = measure(datasets, num_videos)
            for decoder, dataset in datasets.items():
                rates = [clips_per_second(dataset, num_videos, num_threads) for num_threads in (1, 2)]
                cpu, wall = medians[decoder]
                print(f"{name:<18} {decoder:<8} {cpu:7.1f} {wall:7.1f} {rates[0]:9.1f} {rates[1]:10.1f}")
            size = statistics.mean(file.stat().st_size for file in place.iterdir()) / 1000
            ratio = medians["decord"][0] / medians["pyav"][0]
            print(f"{'':<18} decord / pyav = {ratio:.2f} in CPU time; mean file {size:.0f} kB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16)
