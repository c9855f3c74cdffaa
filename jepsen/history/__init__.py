"""Histories: operations, their files, and the recorder of a run."""
