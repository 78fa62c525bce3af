"""From comparable cells to boards: gates, ranks, paired comparisons, tables."""
