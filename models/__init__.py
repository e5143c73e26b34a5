"""Networks that compare two digits, one family a file; torch only.

The contract. Every public function of a file here is an architecture, known by its name:

    def name(activation: Activation, *, weight_sharing: bool) -> nn.Module

`activation` makes a fresh activation module at every call. Where a function takes `width`, `depth` or `dropout`, with
defaults, these are parameters: how wide its first layer is, how many layers of a kind there are, and which share of the
numbers before the last layers (of `fnn` after each hidden one) is dropped in training. The module that comes back maps
pairs (B, 2, 14, 14) to `(comparison, digits)`: logits (B, 2) of "first <= second", and logits (B, 2, 10) of the two
digits. The first line of the function's docstring is what `hpo list` prints. A file or function whose name begins with
an underscore is not an architecture.
"""
