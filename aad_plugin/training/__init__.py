"""Training stays TRL's: its command line, our recipes, and rounds of synthetic pairs and DPO over it."""
