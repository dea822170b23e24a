"""Auto-Encoding Variational Bayes for models written in Pyro.

Inference never sees a VAE: it sees a model p(z)p(x|z) and a guide q(z|x), two Pyro callables.

The public names stand in ``__init__.pyi``, for type checkers and for this file, which imports each when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
