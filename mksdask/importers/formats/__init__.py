"""Readers of image files, one file for each format, and what files of several formats have in common."""
