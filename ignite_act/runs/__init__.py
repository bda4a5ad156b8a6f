"""Run directories: layout, locking and replacing, checkpoints, and reading runs back."""
