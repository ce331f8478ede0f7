"""Is a judge to be believed: held against gold items, attacks and people's labels."""
