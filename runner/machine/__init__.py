"""What this machine has, and whether a job fits it."""
