"""Files, signals, progress and this machine's figures; no word of distillation."""
