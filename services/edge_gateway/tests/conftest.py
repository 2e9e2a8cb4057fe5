"""What tests share stands in `support/`."""

import sys
from pathlib import Path

# pytest's importlib mode lets tests share modules in no other way
sys.path.insert(0, str(Path(__file__).parent / "support"))
