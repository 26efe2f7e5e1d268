"""An engine in a process of its own: started, watched, revived, kept warm for the next run."""
