"""What the verbs of the command line do; their options are read in ulmfit_fast.cli."""
