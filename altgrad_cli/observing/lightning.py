"""``observe`` for the Trainer of Lightning: ``Trainer(..., callbacks=[LightningObserver(...)])``."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:  # the same under its older name; either Trainer takes either
    from pytorch_lightning import Callback

from altgrad_cli.errors import UsageError
from altgrad_cli.observing.lab import Lab
from altgrad_cli.observing.start import observe


class LightningObserver(Callback):
    """Observes a LightningModule, or a part of it, while it is trained.

    Lightning's own closure is one micro-batch, with its logging: it is not taken a second time, so there is
    no float32 shadow.

    Args:
        part: the name of the submodule that ``training_step`` calls; empty where it calls ``self``.
        settings, options: what ``observe`` takes beside model and optimizer.

    Raises:
        TypeError: ``observe`` does not know one of the options.
        UsageError: when training begins: there are several optimizers or processes, or what ``observe``
            refuses.
    """

    def __init__(self, part: str = "", settings: Sequence[str] = (), **options: Any) -> None:
        signature(observe).bind(None, None, **options)
        self._part, self._settings, self._options = part, ("use_shadow=false", *settings), options
        self.lab: Lab | None = None
        """What observes; None before training begins."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Round, measure and capture from now on."""
        if len(trainer.optimizers) != 1:
            raise UsageError(
                f"the module has {len(trainer.optimizers)} optimizers",
                where="configure_optimizers",
                allowed="one",
                hint="in a loop of one's own observe can be called for each",
            )
        if trainer.world_size > 1:
            raise UsageError(
                f"the Trainer has {trainer.world_size} processes",
                where="devices",
                allowed="1",
                hint="in a loop of one's own observe takes a model wrapped by DistributedDataParallel",
            )
        model = pl_module.get_submodule(self._part)
        self.lab = observe(model, trainer.optimizers[0], settings=self._settings, **self._options)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the model back."""
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the model back."""
        self.close()

    def close(self) -> None:
        """As ``Lab.close``."""
        if self.lab is not None:
            self.lab.close()
