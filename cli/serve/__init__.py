"""`keepstep serve`: the models of a home over HTTP, in the form of OpenAI's API."""
