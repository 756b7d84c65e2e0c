"""Subcommands of apex, one file each, imported when run."""
