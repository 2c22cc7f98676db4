"""Why is my GPU not used, and is this machine set up well? Facts, then findings, then a verdict."""

from ulmfit_fast.doctor.findings import Finding, Level, Report, diagnose
from ulmfit_fast.doctor.machine import Gpu, Machine
from ulmfit_fast.doctor.probe import probe

__all__ = ["Finding", "Gpu", "Level", "Machine", "Report", "diagnose", "probe"]
