"""Puts toy_service.py on the path, as if a third party had installed it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
