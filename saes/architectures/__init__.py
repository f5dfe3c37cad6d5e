"""The architectures, one a file. A new one is a subclass of `SAE` and a name here and in `saes.config.Architecture`."""

from saes.architectures.batchtopk import BatchTopK
from saes.architectures.crosscoder import BatchTopKCrosscoder, Crosscoder, JumpReLUCrosscoder
from saes.architectures.gated import Gated
from saes.architectures.jumprelu import JumpReLU
from saes.architectures.matching_pursuit import MatchingPursuit
from saes.architectures.matryoshka import Matryoshka
from saes.architectures.standard import Standard
from saes.architectures.topk import TopK
from saes.architectures.transcoder import (
    BatchTopKSkipTranscoder,
    BatchTopKTranscoder,
    JumpReLUSkipTranscoder,
    JumpReLUTranscoder,
    SkipTranscoder,
    TopKSkipTranscoder,
    TopKTranscoder,
    Transcoder,
)
from saes.sae import SAE

ARCHITECTURES: dict[str, type[SAE]] = {
    sae.architecture: sae
    for sae in (
        TopK,
        BatchTopK,
        Matryoshka,
        JumpReLU,
        Gated,
        Standard,
        MatchingPursuit,
        Transcoder,
        SkipTranscoder,
        TopKTranscoder,
        TopKSkipTranscoder,
        BatchTopKTranscoder,
        BatchTopKSkipTranscoder,
        JumpReLUTranscoder,
        JumpReLUSkipTranscoder,
        Crosscoder,
        BatchTopKCrosscoder,
        JumpReLUCrosscoder,
    )
}
