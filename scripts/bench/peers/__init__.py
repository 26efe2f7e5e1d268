"""Other projects' confidence estimators on our completions, in an environment of their own."""
