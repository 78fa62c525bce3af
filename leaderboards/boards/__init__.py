"""From cells that are alike to boards: gates, ranks, paired comparisons, tables."""
