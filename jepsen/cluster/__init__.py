"""Clusters of real node processes for the suite: started, broken and removed here."""
