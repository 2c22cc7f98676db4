"""The accuracy figures of ulmfit_fast: python -m benchmarks.accuracy TASK --data FOLDER."""

import sys
from pathlib import Path

# The other benchmarks are flat modules: `machine` is found beside this package.
if (folder := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.append(folder)
