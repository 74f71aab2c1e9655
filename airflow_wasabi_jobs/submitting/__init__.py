"""Submitting a batch of files: one job for each file, whatever happens to the task."""
