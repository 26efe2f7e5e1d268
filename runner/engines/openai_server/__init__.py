"""An engine that is a server of its own, which speaks OpenAI's chat API."""
