"""Runnable studies: from a zoo to hyper-representations, tasks, claims and one page."""
