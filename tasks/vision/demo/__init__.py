"""Pictures of coloured shapes, drawn for this project, with questions, yes/no probes and descriptions."""
