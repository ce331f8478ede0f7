"""How a chat judge is asked: prompts, requests, transports, and the reading of replies."""
