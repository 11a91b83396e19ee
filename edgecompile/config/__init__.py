"""The user's config, validated and converted into frozen objects in SI units. Imports no torch."""
