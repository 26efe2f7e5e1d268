"""Makes prompts from records; checks, validates and scores answers."""
