"""Pictures of a run, and its report as one HTML file."""
