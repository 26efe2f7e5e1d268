"""A prompt out of a record, and what an answer is worth: checked, scored, held to its schema."""
