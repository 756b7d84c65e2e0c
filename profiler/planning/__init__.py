"""What is measured next, and what that would cost."""
