"""From units and costs to stages on hosts."""
