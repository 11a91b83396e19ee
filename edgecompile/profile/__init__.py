"""What each unit costs on each kind of device: by data sheet, or as measured."""
