"""What the verbs of the command line do; the options are read in ulmfit_fast.cli."""
