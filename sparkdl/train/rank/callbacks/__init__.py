"""The callbacks of a rank: those that record, keep and compare, around the user's own."""
