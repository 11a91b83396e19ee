"""What a plan needs to generate text: state, tokenizer, golden texts, and what is predicted of them."""
