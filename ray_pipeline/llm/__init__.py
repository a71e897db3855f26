"""Language models: requests, engines, limits, durable responses and prompts."""
