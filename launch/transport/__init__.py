"""Messages between ranks: links, their buffers, and whether they carry."""
