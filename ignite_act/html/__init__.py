"""Self-contained HTML pages: runs -> figures and words -> one file that needs nothing else."""
