"""Why each token: what policy and reference said at every step of an answer, read off the scores that chose it.

from aad_plugin import AlignedPair
from aad_plugin.explain.explaining import explain

print(explain(AlignedPair.from_pretrained("demo"), "How do I keep bread fresh?").reward)
"""
