"""Messages between ranks: links, buffers and link monitoring."""
