"""The base model: its files, its tokenizer, its layout, and the model that is trained."""
