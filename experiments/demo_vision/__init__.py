"""The making of the demo pair that sees: pictures, tower, SFT, DPO, figures."""
