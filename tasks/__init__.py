"""The stages, one file each, and the rooms where their work is done."""
