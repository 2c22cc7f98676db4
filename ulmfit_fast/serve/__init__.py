"""A classifier behind HTTP: batches over requests, limits, and one page to try it.

Needs the extra: pip install "ulmfit_fast[serve]". Everything but `settings` imports it.
"""
