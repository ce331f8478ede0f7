"""How fast a pair decodes, against plain greedy decoding and against the two-model loop as others write it."""
