"""The Hugging Face Hub: its client's errors, told as ours."""
