"""The directory of a run: its layout, who may write it, its checkpoints, and how it is read back."""
