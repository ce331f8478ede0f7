"""What a pair costs and whether its tokens hold on an accelerator: random weights of real shapes, plain greedy beside.

python -m experiments.gpu --minutes 8
"""
