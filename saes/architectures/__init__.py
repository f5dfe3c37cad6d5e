"""The architectures, one a file. A new one is a subclass of `SAE` and a name here and in `saes.config.Architecture`."""

from saes.architectures.standard import Standard
from saes.architectures.topk import TopK
from saes.sae import SAE

ARCHITECTURES: dict[str, type[SAE]] = {sae.architecture: sae for sae in (TopK, Standard)}
