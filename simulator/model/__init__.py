"""Model IR: blocks, cells and tasks from a Hugging Face config."""
