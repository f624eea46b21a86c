"""Publish a zoo: a folder that others open without this package, and ways to send it where they find it."""
