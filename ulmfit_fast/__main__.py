"""`python -m ulmfit_fast` is `ulmfit-fast`, for launchers such as torchrun that start modules."""

from __future__ import annotations

from ulmfit_fast.cli import main

main(prog_name="ulmfit-fast")
