"""The helper module of these tests."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest's importlib mode puts no test folder on the path; the helper's name is unique for that.
sys.path.insert(0, str(Path(__file__).parent))
