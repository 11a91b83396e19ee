"""The way that every HTTP request takes: its key, its body, its place in the queue, its time, its errors."""
