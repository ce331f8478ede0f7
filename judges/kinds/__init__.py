"""From one string to a judge, and the kinds of judge there are."""
