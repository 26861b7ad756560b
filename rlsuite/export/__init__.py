"""One algorithm as one self-contained file: what it reaches of the package, and nothing else."""
