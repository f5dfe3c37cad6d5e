"""What a training on addition modulo p came to: how it went, and what the model at its end computes."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.grokking.fourier import SINGLE, Neurons, explained, neurons
from workbench.grokking.model import all_logits
from workbench.grokking.progress import Progress, progress
from workbench.grokking.setting import Setting
from workbench.grokking.training import Checkpoint


@dataclass(frozen=True, eq=False)
class Report:
    """The progress measures over a training, and the last checkpoint taken apart."""

    progress: Progress
    shares: Float[Tensor, " frequency"]
    """The share of the variance of the logits that cos(w(a + b - c)) explains, by frequency."""
    neurons: Neurons

    def __str__(self) -> str:
        past = self.progress
        setting, at = past.setting, past.step[-1]
        shares = "  ".join(f"{k} ({self.shares[k - 1]:.0%})" for k in past.keys) or "none yet"
        numbers = f"{setting.n_train:,} of {setting.p**2:,} sums mod {setting.p}"
        lines = [
            f"Trained on {numbers} for {at:,} steps",
            f"  accuracy         training {past.train_accuracy[-1]:.1%}, test {past.test_accuracy[-1]:.1%}",
            f"  loss             training {past.train_loss[-1]:.2e}, test {past.test_loss[-1]:.2e}",
            f"  phases           {past.phases}",
            f"  key frequencies  {shares}",
            f"  together         {past.explained[-1]:.1%} of the logits' variance is cos(w(a + b - c))",
            f"  loss with        those waves of a + b alone {past.restricted_loss[-1]:.2e} (restricted, test), "
            f"without them {past.excluded_loss[-1]:.2f} (excluded, training)",
            f"  neurons          {self.neurons.clustered:.0%} answer to one frequency ({SINGLE:.0%} of their variance)",
        ]
        return "\n".join(lines)


def report(checkpoints: Sequence[Checkpoint], setting: Setting) -> Report:
    """Measure every checkpoint, and take the last apart."""
    adder = checkpoints[-1].adder(setting)
    return Report(progress(checkpoints, setting), explained(all_logits(adder)), neurons(adder))
