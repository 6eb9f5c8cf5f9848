"""Readers of EBSD maps, one file for each vendor, and what the maps of all vendors have in common."""
