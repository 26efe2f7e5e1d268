"""The closed APIs: their requests, replies, batches and prices."""
