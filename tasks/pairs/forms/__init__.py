"""Forms of preference data beyond a chosen and a rejected column, rewritten into rows that have them."""
