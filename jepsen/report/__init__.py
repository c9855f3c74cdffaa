"""What a run leaves behind: its folder (history, verdict, logs, pictures) and the index of all runs."""
