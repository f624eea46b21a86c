"""Figures, tables and one page about hyper-representations."""
