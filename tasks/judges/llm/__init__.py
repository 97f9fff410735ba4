"""A language model as a pair judge, over any endpoint that speaks OpenAI's chat API."""
