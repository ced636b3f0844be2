"""Export a model as a GGUF file for llama.cpp and Ollama, and prove that it answers as the model does."""
