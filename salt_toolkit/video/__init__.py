"""From video files to frames: decoders, timelines, damage."""
