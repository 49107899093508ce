"""The training: its loop, batches, optimiser, processes, checkpoints, and log."""
